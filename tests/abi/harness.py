"""What the scripts of this folder share: running programs with and without the library, and counting what went wrong."""

import mmap
import os
import signal
import subprocess
import sys

BUILD = os.environ["POLDER_BUILD_DIR"]
LIBRARY = os.environ["POLDER_LIB"]
SOURCE = os.environ["POLDER_SOURCE_DIR"]
PROGRAMS = os.path.join(BUILD, "tests", "abi")

# Every test of behaviour runs under each: no limit, and one that evicts.
CONFIGURATIONS = ["", "memory:64M"]



def _kernel_has_guard_pages():
    """MADV_GUARD_INSTALL, since Linux 6.13: without it a hardened heap works, but says that it lacks something."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(102)
    except OSError:
        return False
    finally:
        memory.close()
    return True


# The same with hardening.
HARDENED = ["hardened:1", "hardened:1,memory:64M"] if _kernel_has_guard_pages() else []

TIMED_OUT = 1000  # in place of an exit status

failures = 0

if not os.path.exists(LIBRARY):
    sys.exit(f"{LIBRARY} is missing")


def program(name):
    return os.path.join(PROGRAMS, name)


def environment(configuration=None, preload=True, **extra):
    variables = {key: value for key, value in os.environ.items() if key not in ("POLDER_CONF", "LD_PRELOAD")}
    if preload:
        variables["LD_PRELOAD"] = LIBRARY
    if configuration is not None:
        variables["POLDER_CONF"] = configuration
    variables.update(extra)
    return variables


def run(command, configuration=None, preload=True, timeout=400, **extra):
    try:
        return subprocess.run(command, env=environment(configuration, preload, **extra), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=timeout, text=True,
                              errors="replace")
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(command, TIMED_OUT, str(late.stdout), str(late.stderr))


def describe(result):
    status = result.returncode
    if status == TIMED_OUT:
        return "timed out"
    if status < 0:
        return "signal " + signal.Signals(-status).name
    return f"status {status}"


def check(condition, what, detail=""):
    global failures
    if condition:
        return
    failures += 1
    print(f"FAILED: {what}")
    for line in str(detail).splitlines()[:30]:
        print("    " + line)


def finish():
    if failures:
        print(f"{failures} failed")
    sys.exit(1 if failures else 0)
