"""CPython's own tests of processes, threads, signals and mappings, by Debian's python3 and its testsuite package.

Most of the time they wait, so all modules run at once; test_multiprocessing_fork takes a minute and goes in two parts.

Without the library all of them pass here, as root: nothing is excluded.
"""

import contextlib
import os
import re
import subprocess
import sys
import time

import matrix
from matrix import check, cleanup, harness

PYTHON = "/usr/bin/python3"
MODULES = [  # with the limit at which they page
    ("20M", "test_multiprocessing_fork", "--match", "*WithProcesses*"),
    ("20M", "test_multiprocessing_fork", "--ignore", "*WithProcesses*"),
    ("10M", "test_signal"),
    ("16M", "test_subprocess"),
    ("10M", "test_faulthandler"),
    ("16M", "test_threading"),
    ("9M", "test_fork1"),
    ("16M", "test_os"),
    ("16M", "test_mmap"),
]
TIMEOUT = 200


def start_module(stack, directory, module, memory, allocator):
    directory.mkdir()
    variables = harness.environment(preload=False, LC_ALL="C.UTF-8", HOME=str(directory), TMPDIR=str(directory),
                                    PYTHONMALLOC=allocator)
    command = [*matrix.polder_run(memory, directory / "stats.json"), PYTHON, "-m", "test", "-v", *module]
    output = stack.enter_context(open(directory / "output", "wb"))
    return stack.enter_context(cleanup.start(command, env=variables, cwd=directory, stdin=subprocess.DEVNULL,
                                             stdout=output, stderr=output))


def run_modules(root, way, limit, allocator, tight):
    deadline = time.monotonic() + TIMEOUT
    with contextlib.ExitStack() as stack:
        running = []
        for number, (pages_at, *module) in enumerate(MODULES):
            directory, memory = root / f"{number}", pages_at if tight else limit
            process = start_module(stack, directory, module, memory, allocator)
            running.append((module, memory, directory, process))
        for module, memory, directory, process in running:
            what = f"{' '.join(module)} [{way}]"
            try:
                status = process.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                status = harness.TIMED_OUT
            output = (directory / "output").read_text(errors="replace")
            lines = output.splitlines()
            noteworthy = re.compile(r"(ERROR|FAIL):|.*\.\.\. (ERROR|FAIL)$|.*polder: ")
            broken = [line for line in lines if noteworthy.match(line)]
            result = subprocess.CompletedProcess(module, status)
            check(status == 0 and lines[-1:] in (["Tests result: SUCCESS"], ["Result: SUCCESS"]), what,
                  "\n".join([matrix.describe(result), *broken, *lines[-12:]]))
            check("polder: " not in output, f"{what}: the library had something to say", "\n".join(broken))
            matrix.check_stats(what, matrix.read_stats(directory / "stats.json"), memory, tight)
            count = re.findall(r"^Ran (\d+) tests", output, flags=re.MULTILINE)
            skipped = len(re.findall(r"\.\.\. skipped ", output))
            check(count and int(count[-1]) - skipped > 3, f"{what}: too few tests were run", lines[-12:])
            print(f"{what}: {sum(map(int, count))} tests, {skipped} skipped", flush=True)


def run(way, limit, allocator, tight=False):
    """All modules in one way, with the limit or, if tight, the one at which they page; ends the script."""
    if not os.path.exists("/usr/lib/python3.11/test/test_subprocess.py"):
        print("libpython3.11-testsuite is not installed (scripts/install-deps)")
        sys.exit(77)
    with matrix.session() as directory:
        run_modules(directory, way, limit, allocator, tight)
    matrix.finish()
