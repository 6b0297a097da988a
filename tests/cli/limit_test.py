#!/usr/bin/env python3
"""`polder limit`: the limit of a running process goes down and up, whether it allocates, sleeps or was forked."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from support import BINARY, LIBRARY, PYTHON_ON_MALLOC, CommandTest, main, run

NOBODY = 65534
MIB = 1 << 20
DATA = 128 * MIB
INTERPRETER = 32 * MIB  # more than Python itself has in memory

# Holds its data; answers a line each: "check" compares every byte, "churn" allocates until the next line, "fork" has a
# child that does the same as the parent from then on, and says its process id.
PROGRAM = f"""
import os, select, sys
blocks = [bytes([i % 251 + 1]) * 65536 for i in range({DATA} // 65536)]
def say(text):
    print(text, flush=True)
say("ready")
churn = False
while True:
    if churn and not select.select([0], [], [], 0)[0]:
        some = [bytes(5000) for _ in range(300)]
        continue
    word = os.read(0, 6)
    churn = word == b"churn\\n"
    if not word:
        break
    if word == b"check\\n":
        say("right" if all(b.count(i % 251 + 1) == 65536 for i, b in enumerate(blocks)) else "wrong")
    elif word == b"fork.\\n":
        child = os.fork()
        if child:
            say(child)
            os.waitpid(child, 0)
            say("over")
"""


class Program:
    def __init__(self, *options, library=True):
        words = [BINARY, "run", *options, "--"] if library else []
        self._process = subprocess.Popen([*words, sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, env={**os.environ, **PYTHON_ON_MALLOC})
        assert self._process.stdout.readline() == b"ready\n"
        self.id = self._process.pid

    def tell(self, word):
        os.write(self._process.stdin.fileno(), word.encode() + b"\n")

    def ask(self, word):
        self.tell(word)
        return self._process.stdout.readline().decode().strip()

    def end(self):
        self._process.stdin.close()
        self._process.stdout.read()
        self._process.stdout.close()
        return self._process.wait(timeout=400)


@contextlib.contextmanager
def program(*options, **more):
    running = Program(*options, **more)
    try:
        yield running
    finally:
        status = running.end()
    assert status == 0, status


def resident(process):
    with open(f"/proc/{process}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def may_trace_others():
    """Whether a process may look into others of its user that are not its children."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return os.geteuid() == 0 or file.read().strip() == "0"
    except FileNotFoundError:
        return True


@unittest.skipUnless(may_trace_others(), "only root may look into processes here")
class Limit(CommandTest):
    def assert_limit(self, process, size):
        result = run("limit", process, size)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn(f"process {process}:", result.stdout)

    def test_of_a_process_that_allocates(self):
        with program() as running:
            self.assertGreater(resident(running.id), DATA)
            running.tell("churn")
            self.assert_limit(running.id, "64M")
            self.assertLess(resident(running.id), 64 * MIB + INTERPRETER)
            self.assertEqual(running.ask("check"), "right")
            self.assertLess(resident(running.id), 64 * MIB + INTERPRETER)
            running.tell("churn")
            self.assert_limit(running.id, "0")
            self.assertEqual(running.ask("check"), "right")
            self.assertGreater(resident(running.id), DATA)

    def test_of_a_process_that_pages_and_sleeps(self):
        with program("--memory", "96M") as running:
            for size in (48, 24, 96, 32):
                self.assert_limit(running.id, f"{size}M")
                self.assertLess(resident(running.id), size * MIB + INTERPRETER)
            self.assertEqual(running.ask("check"), "right")
            self.assertLess(resident(running.id), 32 * MIB + INTERPRETER)

    def test_of_a_process_that_sleeps_far_from_its_limit(self):
        with program() as running:
            self.assert_refused(run("limit", running.id, "64M"), 1, "has not come by its heap", "when it does")
            running.tell("churn")
            deadline = time.monotonic() + 300
            while resident(running.id) > 64 * MIB + INTERPRETER:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
            self.assertEqual(running.ask("check"), "right")

    def test_by_several_at_once(self):
        sizes = (72, 48, 64, 56)
        with program("--memory", "96M") as running:
            commands = [subprocess.Popen([BINARY, "limit", str(running.id), f"{size}M"], stdout=subprocess.PIPE,
                                         stderr=subprocess.STDOUT, text=True) for size in sizes]
            for size, command in zip(sizes, commands):
                output, _ = command.communicate(timeout=400)
                self.assertEqual((command.returncode, output),
                                 (0, f"process {running.id}: the limit of {size}M is in force\n"))
            self.assertLess(resident(running.id), max(sizes) * MIB + INTERPRETER)
            self.assertEqual(running.ask("check"), "right")

    def test_of_a_child(self):
        with program("--memory", "96M") as running:
            child = int(running.ask("fork."))
            self.assert_limit(child, "32M")
            self.assertLess(resident(child), 32 * MIB + INTERPRETER)
            self.assertEqual(running.ask("check"), "right")  # the child, while the parent waits for it

    def test_what_cannot_be(self):
        with program() as running:
            running.tell("churn")
            for word in ("x", "-3", "0", "1.5"):
                self.assert_refused(run("limit", word, "64M"), 2, f"'{word}' is no process id")
            for size in ("lots", "-1", "1e9"):
                self.assert_refused(run("limit", running.id, size), 2, f"'{size}' is not a size", "64M")
            self.assert_refused(run("limit", running.id, "99999999999999999999"), 2, "too large")
            self.assert_refused(run("limit", running.id, "7M"), 2, "7M is below the minimum of 8M")
            self.assert_refused(run("limit", running.id), 2, "polder limit PID SIZE")
            self.assert_refused(run("limit", 2 ** 30, "64M"), 2, f"no process {2 ** 30}")
        self.assertIn("polder limit PID SIZE", run("limit", "--help").stdout)

    def test_of_a_process_on_another_heap(self):
        with program(library=False) as running:
            self.assert_refused(run("limit", running.id, "64M"), 2, "does not run on this heap")

    def test_of_a_process_of_somebody_else(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become somebody else")
        with program() as running, tempfile.TemporaryDirectory() as place:
            os.chmod(place, 0o755)
            result = subprocess.run([shutil.copy(BINARY, place), "limit", str(running.id), "64M"], capture_output=True,
                                    text=True, check=False, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[])
            self.assert_refused(result, 2, f"process {running.id} may not be looked into", "root")

    def test_of_the_supervisor(self):
        with tempfile.TemporaryDirectory() as place, program("--stats", f"{place}/stats") as running:
            result = run("limit", running.id, "64M")
            self.assert_refused(result, 2, f"process {running.id} does not run on this heap", "is its child")
            child = result.stderr.split("; process ")[1].split()[0]
            running.tell("churn")
            self.assert_limit(child, "64M")

    def test_of_a_process_whose_library_was_replaced(self):
        with tempfile.TemporaryDirectory() as place:
            copy = shutil.copy(LIBRARY, place)
            environment = {**os.environ, **PYTHON_ON_MALLOC, "LD_PRELOAD": copy}
            words = [sys.executable, "-c", "print('ready', flush=True)\nwhile True: some = [bytes(5000) for _ in range(300)]"]
            process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE)
            try:
                self.assertEqual(process.stdout.readline(), b"ready\n")
                os.unlink(copy)
                result = run("limit", process.pid, "64M")
                if result.returncode == 2 and "only root" in result.stderr:
                    self.skipTest("the kernel does not show files that are gone")
                self.assertEqual((result.returncode, result.stderr), (0, ""))
            finally:
                process.kill()
                process.communicate()


if __name__ == "__main__":
    main()
