"""Hostile UDFs, and what each must come to. Each source runs as it would be written; none knows of the
tests."""

from __future__ import annotations

from typing import NamedTuple

LIMIT = 3  # seconds
MEMORY = 768 * 2**20  # bytes

_INNOCENT = """
import time
@fused.udf
def udf(n: int = 0):
    time.sleep(0.02)
    return {"n": n, "squares": [i * i for i in range(100)]}
"""


class Fault(NamedTuple):
    """``status`` of the answer, and words that its reason must have one of."""

    source: str
    status: int
    words: tuple[str, ...]


def _udf(body: str, head: str = "") -> str:
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    return f"import os, sys, time, ctypes, signal, threading\n{head}\n@fused.udf\ndef udf():\n{lines}\n"


FAULTS: dict[str, Fault] = {
    "segfault": Fault(_udf("ctypes.string_at(0)"), 422, ("SIGSEGV",)),
    "abort": Fault(_udf("os.abort()"), 422, ("SIGABRT",)),
    "exit_at_once": Fault(_udf("os._exit(0)"), 422, ("exited with status 0",)),
    "sys_exit": Fault(_udf("sys.exit(3)"), 422, ("SystemExit",)),
    "kill_itself": Fault(_udf("os.kill(os.getpid(), 9)"), 422, ("SIGKILL",)),
    "loop": Fault(_udf("while True: pass"), 422, ("longer than its limit",)),
    "loop_in_c": Fault(
        _udf("ctypes.PyDLL(None).sleep(3600)"),  # PyDLL keeps the interpreter's lock
        422,
        ("longer than its limit",),
    ),
    "sleep": Fault(_udf("time.sleep(3600)"), 422, ("longer than its limit",)),
    "ignores_signals": Fault(
        _udf(
            """
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
while True: time.sleep(1)
"""
        ),
        422,
        ("longer than its limit",),
    ),
    "catches_all": Fault(
        _udf(
            """
while True:
    try:
        while True: time.sleep(0.01)
    except BaseException: pass
"""
        ),
        422,
        ("longer than its limit",),
    ),
    "hang_at_import": Fault("import time\ntime.sleep(3600)\n" + _udf("return 1"), 422, ("longer than",)),
    "memory": Fault(
        _udf("held = []\nwhile True: held.append(bytearray(32 * 2**20))"),
        422,
        ("MemoryError", "memory_limit"),
    ),
    "memory_in_children": Fault(
        _udf(
            """
for _ in range(2):
    if os.fork() == 0:
        held = b"x" * (400 * 2**20)
        time.sleep(3600)
time.sleep(3600)
"""
        ),
        422,
        ("memory_limit",),
    ),
    "forks": Fault(
        _udf(
            """
count = 0
try:
    while count < 2000:
        if os.fork() == 0:
            time.sleep(3600)
            os._exit(0)
        count += 1
except OSError as error:
    raise RuntimeError(f"stopped at {count}: {error}")
return count
"""
        ),
        422,
        ("stopped at", "longer than its limit"),
    ),
    "threads": Fault(
        _udf(
            """
try:
    for count in range(5000):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
except RuntimeError as error:
    raise RuntimeError(f"stopped at {count}: {error}")
"""
        ),
        422,
        ("stopped at",),
    ),
    "daemon": Fault(
        _udf(
            """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(1)
    os._exit(0)
os.wait()
return "left a daemon"
"""
        ),
        200,
        ("left a daemon",),
    ),
    "flood_prints": Fault(_udf("for _ in range(4000000): print('x' * 60)"), 422, ("longer than",)),
    "flood_descriptor": Fault(
        _udf("block = b'y' * 2**20\nwhile True: os.write(1, block)"), 422, ("longer than its limit",)
    ),
    "closes_descriptors": Fault(_udf("os.closerange(0, 1000)\nreturn 1"), 422, ("ended in the middle",)),
    "opens_descriptors": Fault(
        _udf("held = []\nwhile True: held.append(os.open('/dev/null', os.O_RDONLY))"),
        422,
        ("Too many open files",),
    ),
    "garbage": Fault(
        _udf(
            """
for number in range(3, 64):
    try: os.write(number, b"\\xff" * 64)
    except OSError: pass
time.sleep(3600)
"""
        ),
        422,
        ("broke the connection", "ended in the middle"),
    ),
    "forged_answer": Fault(
        _udf(
            """
import json, struct
header = json.dumps({"type": "result", "media_type": "text/html", "created": 0, "meta": {}}).encode()
frame = struct.pack("!II", len(header), 3) + header + b"yes"
for number in range(3, 64):
    try: os.write(number, frame + frame)
    except OSError: pass
time.sleep(3600)
"""
        ),
        0,  # its own answer to its own request, whatever it says
        (),
    ),
    "recursion": Fault(_udf("def deep(): return deep()\ndeep()"), 422, ("RecursionError",)),
    "deep_recursion_in_c": Fault(
        _udf("sys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nreturn str(x)"),
        422,
        ("SIGSEGV", "RecursionError", "recursion"),
    ),
    "fills_disk": Fault(
        _udf(
            """
block = b"z" * (64 * 2**20)
for number in range(10000):
    with open(os.path.join(os.environ["TMPDIR"], f"f{number}"), "wb") as file:
        file.write(block)
"""
        ),
        422,
        ("scratch", "longer than"),
    ),
    "deep_folders": Fault(
        _udf(
            """
os.chdir(os.environ["TMPDIR"])
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
while True: time.sleep(1)
"""
        ),
        422,
        ("scratch",),
    ),
    "folders_that_can_not_be_opened": Fault(
        _udf(
            """
os.chdir(os.environ["TMPDIR"])
os.makedirs("a/b")
os.mkdir("a/b/c", 0)
for number in range(3000):
    os.mkdir(f"n{number}", 0o300)
os._exit(3)
"""
        ),
        422,
        ("exited with status 3", "can't be counted"),
    ),
    "broken_str": Fault(
        _udf("raise Odd()", "class Odd(Exception):\n    def __str__(self): raise ValueError('no')"),
        422,
        ("Odd",),
    ),
    "no_result": Fault(_udf("return (x for x in range(3))"), 422, ("Result serialization failed",)),
    "pickle": Fault(
        _udf(
            "return Trap()",
            "class Trap:\n    def __reduce__(self): return (os.system, ('touch /tmp/tileserver-pickled',))",
        ),
        422,
        ("Result serialization failed",),
    ),
    "huge_result": Fault(_udf("return 'x' * (64 * 2**20)"), 422, ("output_limit", "over the limit")),
    "symlinks": Fault(
        _udf(
            """
home = os.environ["TMPDIR"]
os.symlink("/etc", os.path.join(home, "etc"))
return open(os.path.join(home, "etc/passwd")).read()
"""
        ),
        422,
        ("PermissionError",),
    ),
}

ATTACK = '''
import os

@fused.udf
def udf(path: str, mode: str = "rb"):
    """Open any path, and tell what of it can be read or written."""
    if os.path.isdir(path):
        return {"names": os.listdir(path)}
    with open(path, mode) as file:
        return {"bytes": len(file.read(10)) if mode == "rb" else file.write("planted")}
'''

_CODE = """
@fused.udf
def udf(body: str):
    import ctypes, os, socket
    return {"value": str(eval(body, {"os": os, "socket": socket, "ctypes": ctypes}))}
"""

_READS_OWN = """
import pandas as pd
@fused.udf
def udf():
    return pd.read_csv("data/own.csv")
"""

CANVASES = {
    **{f"hostile/{name}.py": fault.source for name, fault in FAULTS.items()},
    "hostile/opener.py": ATTACK,
    "hostile/evaluate.py": _CODE,
    "hostile/data/own.csv": "a,b\n1,2\n",
    "hostile/reads_own.py": _READS_OWN,
    "innocent/calm.py": _INNOCENT,
    "other/hello.py": "@fused.udf\ndef udf():\n    return 'hello'\n",
    "other/data/secret.csv": "do not read",
}
