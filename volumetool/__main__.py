"""``python -m volumetool`` is the command ``volumetool``."""

from volumetool.cli.main import main

main()
