"""`polder limit` finds the heap of a process in whatever way the library came in."""

import os
import subprocess

from harness import check, environment, finish, program

LIMIT = 32 << 20
OTHER = 16 << 20  # more than such a program has in memory beside its heap

for name in ("held", "archive/held", "static/held", "static_pie/held"):
    held = subprocess.Popen([program(name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env=environment(preload=name == "held"))
    check(held.stdout.readline() == "ready\n", f"{name} starts")
    changed = subprocess.run([os.environ["POLDER_BIN"], "limit", str(held.pid), str(LIMIT)], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, check=False, timeout=400)
    check(changed.returncode == 0, f"the limit of {name} is changed", changed.stdout)
    with open(f"/proc/{held.pid}/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * 4096
    check(resident < LIMIT + OTHER, f"{name} is inside its limit", resident)
    output, _ = held.communicate(timeout=400)
    check((held.returncode, output) == (0, "right\n"), f"{name} has what it had", output)
finish()
