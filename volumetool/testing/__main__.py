"""The process that forks for a `CrashRunner`."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from volumetool.testing.crash import serve

serve(Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False), sys.argv[3:])
