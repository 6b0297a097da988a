#!/usr/bin/env python3
"""The command's exit status and signals pass through, with and without the supervisor that --stats needs."""

import os
import pty
import resource
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from support import BINARY, LIBRARY, CommandTest, main, run

# Prints a line for each signal and ends at SIGTERM.
LISTENER = """
import os, signal, sys, time
def say(number, frame):
    os.write(1, (signal.Signals(number).name + "\\n").encode())
    if number == signal.SIGTERM: os._exit(5)
for name in sys.argv[1:]: signal.signal(getattr(signal, name), say)
os.write(1, b"ready\\n")
while True: time.sleep(10)
"""
FORWARDED = ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM", "SIGCONT", "SIGTERM")


class PassingOn(CommandTest):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.stats = self.directory / "stats.json"
        self.modes = ([], ["--stats", str(self.stats)])

    def start(self, mode, *arguments, **options):
        process = subprocess.Popen([BINARY, "run", *mode, "--", *arguments], stdout=subprocess.PIPE, **options)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        return process

    def line(self, stream, timeout=20):
        ready, _, _ = select.select([stream], [], [], timeout)
        self.assertTrue(ready, "no line came")
        return os.read(stream.fileno(), 100).decode().strip()

    @staticmethod
    def stops(process):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            changed, status = os.waitpid(process, os.WUNTRACED | os.WNOHANG)
            if changed == process:
                return os.WIFSTOPPED(status)
            time.sleep(0.01)
        return False

    def test_exit_status(self):
        for mode in self.modes:
            for status in (0, 1, 7, 42, 126, 255):
                self.assertEqual(run("run", *mode, "sh", "-c", f"exit {status}").returncode, status)

    def test_death_by_signal(self):
        for mode in self.modes:
            for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGPIPE):
                with self.subTest(mode=mode, number=number):
                    result = run("run", *mode, "sh", "-c", f"kill -{int(number)} $$")
                    self.assertEqual(result.returncode, -number)

    def test_no_core_of_our_own(self):
        def allow_cores():
            resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        script = "ulimit -c 0; kill -SEGV $$"
        result = run("run", "--stats", self.stats, "sh", "-c", script, cwd=self.directory, preexec_fn=allow_cores)
        self.assertEqual(result.returncode, -signal.SIGSEGV)
        self.assertEqual([name for name in os.listdir(self.directory) if name.startswith("core")], [])

    def test_signals_reach_the_command_once(self):
        for mode in self.modes:
            process = self.start(mode, "python3", "-c", LISTENER, *FORWARDED)
            self.assertEqual(self.line(process.stdout), "ready")
            for name in FORWARDED:
                process.send_signal(getattr(signal, name))
                self.assertEqual(self.line(process.stdout), name)
            self.assertEqual(process.wait(20), 5)
            self.assertEqual(process.stdout.read(), b"")

    def test_unhandled_signal_ends_both(self):
        for mode in self.modes:
            process = self.start(mode, "sh", "-c", "echo ready; exec sleep 60")
            self.assertEqual(self.line(process.stdout), "ready")
            process.terminate()
            self.assertEqual(process.wait(20), -signal.SIGTERM)

    def test_ignored_signals_stay_ignored(self):
        for mode in self.modes:
            def ignore():
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            process = self.start(mode, "sh", "-c", "echo ready; read line; exit 3", stdin=subprocess.PIPE,
                                 preexec_fn=ignore)
            self.assertEqual(self.line(process.stdout), "ready")
            process.send_signal(signal.SIGHUP)
            time.sleep(0.2)
            self.assertIsNone(process.poll())
            process.communicate(b"\n", timeout=20)
            self.assertEqual(process.returncode, 3)

    def test_signal_mask_is_inherited(self):
        for mode in self.modes:
            result = run("run", *mode, "grep", "SigBlk", "/proc/self/status")
            self.assertEqual(result.stdout.split()[1].strip("0"), "")

    def test_inherited_disregard_of_children(self):
        def ignore():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        result = run("run", "--stats", self.stats, "sh", "-c", "exit 9", preexec_fn=ignore)
        self.assertEqual(result.returncode, 9)

    def test_stop_and_continue(self):
        for mode in self.modes:
            # A group of its own, with us outside it: in an orphaned group SIGTSTP would do nothing.
            process = self.start(mode, "sh", "-c", "echo ready; read line; exit 4", stdin=subprocess.PIPE,
                                 process_group=0)
            self.assertEqual(self.line(process.stdout), "ready")
            process.send_signal(signal.SIGTSTP)
            self.assertTrue(self.stops(process.pid))
            process.send_signal(signal.SIGCONT)
            process.stdin.write(b"\n")
            process.stdin.close()
            self.assertEqual(process.wait(20), 4)

    def test_the_command_alone_stopped(self):
        """A stop that was not meant for us does not stop us: we notice the end all the same."""
        process = self.start(self.modes[1], "sh", "-c", "echo $$; read line; exit 4", stdin=subprocess.PIPE)
        command = int(self.line(process.stdout))
        os.kill(command, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(command, signal.SIGCONT)
        process.communicate(b"\n", timeout=20)
        self.assertEqual(process.returncode, 4)

    def test_terminal_interrupt_arrives_once(self):
        for mode in self.modes:
            child, terminal = pty.fork()
            if child == 0:
                os.execv(BINARY, [BINARY, "run", *mode, "--", "python3", "-c", LISTENER, "SIGINT", "SIGTERM"])
            text = b""
            deadline = time.monotonic() + 20
            sent = False
            while text.count(b"\n") < 2 and time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.1)[0]:
                    text += os.read(terminal, 1000)
                if b"ready" in text and not sent:
                    os.write(terminal, b"\x03")
                    sent = True
            time.sleep(0.3)
            if select.select([terminal], [], [], 0)[0]:
                text += os.read(terminal, 1000)
            self.assertEqual(text.count(b"SIGINT"), 1, text)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            self.assertEqual(os.WEXITSTATUS(status), 5)
            os.close(terminal)


class Environment(CommandTest):
    def test_preload_and_configuration(self):
        result = run("run", "--memory", "64M", "--swap-dir", "/tmp/", "--io", "workers", "env")
        self.assertEqual(result.returncode, 0, result.stderr)
        variables = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
        self.assertEqual(variables["LD_PRELOAD"], os.path.realpath(LIBRARY))
        settings = dict(pair.split(":", 1) for pair in variables["POLDER_CONF"].split(","))
        self.assertEqual(settings, {"memory": str(64 << 20), "swap-dir": "/tmp", "io": "workers"})

    def test_other_preloads_stay_behind_ours_and_ours_is_there_once(self):
        ours = os.path.realpath(LIBRARY)
        for before, after in (("", ours), ("libdl.so.2", f"{ours}:libdl.so.2"), (ours, ours),
                              (f"libdl.so.2 {ours}", f"{ours}:libdl.so.2")):
            result = run("run", "sh", "-c", "echo $LD_PRELOAD", env={"LD_PRELOAD": before})
            self.assertEqual(result.stdout.strip(), after)

    def test_words_arrive_unchanged(self):
        words = ["--memory", "a b", "", "ü", "--", "-x"]
        for separator in (["--"], []):
            result = run("run", *separator, "python3", "-c", "import sys; print(sys.argv[1:])", *words)
            self.assertEqual(result.stdout.strip(), repr(words))

    def test_swap_directory_with_a_comma(self):
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory) / "a,b\\c"
            place.mkdir()
            result = run("run", "--memory", "64M", "--swap-dir", place, "sh", "-c", "echo \"$POLDER_CONF\"")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("a\\,b\\", result.stdout)

    def test_script_without_interpreter_line(self):
        with tempfile.TemporaryDirectory() as directory:
            script = Path(directory) / "script"
            script.write_text("exit $1\n")
            script.chmod(0o755)
            self.assertEqual(run("run", script, "6").returncode, 6)


if __name__ == "__main__":
    main()
