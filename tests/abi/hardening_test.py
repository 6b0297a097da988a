"""A hardened heap: overflows and uses after free that fault or are named, in each of the three libraries, with and without
a limit."""

import os
import re
import signal
import sys

from harness import BUILD, HARDENED, check, describe, finish, program, run

if not HARDENED:
    print("this kernel has no guard pages")
    sys.exit(77)

WRITTEN = r"polder: 0x[0-9a-f]+ was written to after free\n"
DOUBLE = r"polder: double free of 0x[0-9a-f]+\n"
SURVIVED = "survived\n"

# What each ends with: the signal and the line, where there is one.
EXPECTED = {
    "overflow_small": (signal.SIGSEGV, ""),
    "overflow_span": (signal.SIGSEGV, ""),
    "overflow_large": (signal.SIGSEGV, ""),
    "overflow_in_child": (signal.SIGSEGV, ""),
    "use_span": (signal.SIGSEGV, ""),
    "use_large": (signal.SIGSEGV, ""),
    "write_small": (signal.SIGABRT, WRITTEN),
    "write_and_go_on": (signal.SIGABRT, WRITTEN),
    "write_in_child": (signal.SIGABRT, WRITTEN),
    "double_free": (signal.SIGABRT, DOUBLE),
    "double_free_in_thread": (signal.SIGABRT, DOUBLE),
    "zeros": (0, ""),
}
BESIDE = os.path.join(BUILD, "lib", "libpolder-dl.so")
WAYS = {
    "preloaded": (program("hardening"), [], True),
    "archive": (program("archive/hardening"), [], False),
    "opened": (program("hardening"), [BESIDE], False),
}


def expect(what, result, number, line):
    detail = describe(result) + "\n" + result.stdout + result.stderr
    check(result.returncode == -number, f"{what}: ends as it should", detail)
    check(re.fullmatch(line, result.stderr), f"{what}: says so in one line, or nothing", detail)
    if number == 0:
        check(result.stdout == SURVIVED, f"{what}: has nothing to complain of", detail)


for configuration in HARDENED:
    for way, (path, arguments, preload) in WAYS.items():
        for name, (number, line) in EXPECTED.items():
            result = run([path, name, *arguments], configuration, preload=preload)
            expect(f"{name} [{way}, {configuration}]", result, number, line)
    # realloc is not among the functions that are chosen.
    result = run([program("hardening"), "overflow_grown"], configuration)
    expect(f"overflow_grown [{configuration}]", result, signal.SIGSEGV, "")

# Guards are asked for where the program has locked its memory, and refused there: said once, and then done without.
LOCKED = "import ctypes\nassert ctypes.CDLL(None).mlockall(1) == 0\nx = [bytes(50000) for _ in range(99)]\nprint(len(x))"
result = run(["python3", "-c", LOCKED], "hardened:1", PYTHONMALLOC="malloc")
if result.returncode == 0:
    check(result.stdout == "99\n", "with locked memory", result.stdout)
    check(re.fullmatch(r"polder: hardened, but without guard pages .*\n", result.stderr), "locked memory: one line",
          result.stderr)
else:
    print("not checked: memory cannot be locked here")

# Where nobody asked for it, none of this is done.
for name in ("overflow_small", "use_span", "write_small"):
    result = run([program("hardening"), name], "hardened:0")
    check(result.returncode == 0 and result.stdout == SURVIVED, f"{name}, not hardened", describe(result))
finish()
