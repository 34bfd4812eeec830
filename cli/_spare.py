"""A process that loads what plans and previews need, then reads the words of one command from its input, and runs it.

    python -m volumetool.cli._spare SECONDS

ends where none come within so many seconds, or its input ends. The portal starts it: `volumetool/portal/spare.py`.
"""

from __future__ import annotations

import json
import os
import select
import sys


def main() -> None:
    """Load, wait, and run one command."""
    from volumetool.processing.device.malloc import keep_freed_memory

    keep_freed_memory()  # as the program does, before there are threads
    from volumetool.cli.main import main as run

    import volumetool.evaluation.tryout.api
    import volumetool.jobs.api  # noqa: F401  (that they are loaded is all)

    ready, _, _ = select.select([sys.stdin], [], [], float(sys.argv[1]))
    line = sys.stdin.readline() if ready else ""
    if not line:
        return
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.stdin.fileno())
    os.close(null)
    run(json.loads(line))


if __name__ == "__main__":
    main()
