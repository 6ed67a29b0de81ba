"""Run a command as root without the powers that a container's root usually lacks.

    python contained.py FOLDER... -- COMMAND...

The interpreter, the sources and the FOLDERs are such that every user can go there.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

from ordinary import uncover  # type: ignore[import-not-found]  # beside this script

# To change owners and users, to read and write what is others', to signal them; not CAP_DAC_READ_SEARCH (2),
# CAP_SYS_PTRACE (19), CAP_SYS_ADMIN (21), CAP_SYS_RESOURCE (24).
KEPT = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
CAPSET = {"x86_64": 126, "aarch64": 91}
DROP_FOR_GOOD = 24


def main() -> None:
    split = sys.argv.index("--")
    folders, command = sys.argv[1:split], sys.argv[split + 1 :]
    sources = Path(__file__).resolve().parent.parent.parent
    needed = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), sources, *map(Path, folders)]
    uncover(list(dict.fromkeys(path.resolve() for path in needed)))
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in set(range(64)) - set(KEPT):
        libc.prctl(DROP_FOR_GOOD, capability, 0, 0, 0)
    bits = sum(1 << capability for capability in KEPT)
    header, sets = struct.pack("=Ii", 0x20080522, 0), struct.pack("=IIIIII", *(bits,) * 3, 0, 0, 0)
    if libc.syscall(CAPSET[os.uname().machine], header, sets):
        raise OSError(ctypes.get_errno(), "capset")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
