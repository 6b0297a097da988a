#!/usr/bin/env python3
"""Bad input: one clear line and a non-zero status, before the command starts."""

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

from support import BINARY, LIBRARY, CommandTest, main, run

NOBODY = 65534


@contextlib.contextmanager
def mounted(options):
    """A directory with a tmpfs of its own; skips where mounting is not allowed."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "polder-test", directory], capture_output=True,
                              check=False)
        if done.returncode != 0:
            raise unittest.SkipTest("mount is not allowed here")
        try:
            yield directory
        finally:
            subprocess.run(["umount", directory], check=True)


class Usage(CommandTest):
    def test_nothing(self):
        result = run()
        self.assertEqual(result.returncode, 2)
        self.assertIn("polder run", result.stderr)

    def test_unknown_words(self):
        self.assert_refused(run("walk"), 2, "unknown command 'walk'", "polder --help")
        self.assert_refused(run("--walk"), 2, "unknown option '--walk'", "polder --help")
        self.assert_refused(run("run", "--memroy", "64M", "--", "true"), 2, "unknown option '--memroy'", "run --help")
        self.assert_refused(run("run", "--memroy=64M", "true"), 2, "unknown option '--memroy'")
        self.assert_refused(run("run", "-m", "64M", "true"), 2, "unknown option '-m'")
        self.assert_refused(run("run", "--stats-segment", "/x", "true"), 2, "unknown option '--stats-segment'")
        self.assert_refused(run("doctor", "--fast"), 2, "unknown option '--fast'")

    def test_missing_words(self):
        self.assert_refused(run("run"), 2, "no command given")
        self.assert_refused(run("run", "--memory", "64M", "--"), 2, "no command given")
        self.assert_refused(run("run", "--memory"), 2, "--memory needs a value", "SIZE")
        self.assert_refused(run("run", "--swap-dir=", "true"), 2, "--swap-dir", "empty")
        self.assert_refused(run("doctor", "--swap-dir"), 2, "--swap-dir needs a value")

    def test_sizes(self):
        for text in ("lots", "64Q", "-1", "1.5", "64 M", "", "1e9"):
            self.assert_refused(run("run", "--memory", text, "true"), 2, f"--memory '{text}'", "64M")
        self.assert_refused(run("run", "--swap-size", "big", "true"), 2, "--swap-size 'big'", "1.5G")
        self.assert_refused(run("run", "--memory", "99999999999999999999", "true"), 2, "too large")

    def test_bounds(self):
        self.assert_refused(run("run", "--memory", "7M", "true"), 2, "minimum", "8M")
        self.assert_refused(run("run", "--memory", "1", "true"), 2, "minimum", "8M")
        self.assert_refused(run("run", "--memory", "64M", "--swap-size", "4K", "true"), 2, "minimum", "256K")

    def test_numbers(self):
        self.assert_refused(run("run", "--watermark-scale", "few", "true"), 2, "--watermark-scale 'few'", "number")
        for number in (0, 1001):
            self.assert_refused(run("run", "--watermark-scale", number, "true"), 2, f"--watermark-scale {number}", "1000")

    def test_choices(self):
        self.assert_refused(run("run", "--hardened", "yes", "true"), 2, "--hardened 'yes'", "0 or 1")
        self.assert_refused(run("run", "--io", "carrier-pigeon", "true"), 2, "--io 'carrier-pigeon'", "uring", "workers")
        self.assert_refused(run("run", "--policy", "random", "true"), 2, "--policy 'random'", "fifo", "mglru")

    def test_help_says_the_defaults(self):
        text = " ".join(run("run", "--help").stdout.split())
        for default in ("lru", "auto", "78", "/var/tmp", "0"):
            self.assertIn(f" Default: {default}. ", text + " ")

    def test_help_and_version(self):
        for arguments in (["--help"], ["run", "--help"], ["doctor", "--help"], ["--version"]):
            result = run(*arguments)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn("polder", result.stdout)
        for option in ("--memory", "--swap-dir", "--swap-size", "--io", "--policy", "--watermark-scale", "--hardened", "--stats", "/var/tmp"):
            self.assertIn(option, run("run", "--help").stdout)
        self.assertNotIn("stats-segment", run("run", "--help").stdout)


class SwapDirectory(CommandTest):
    def refused(self, directory, *words, swap_size=None):
        size = [] if swap_size is None else ["--swap-size", swap_size]
        self.assert_refused(run("run", "--memory", "64M", "--swap-dir", directory, *size, "true"), 2, str(directory), *words)

    def test_missing(self):
        self.refused("/nonexistent/swap", "does not exist")

    def test_no_directory(self):
        self.refused("/etc/passwd", "not a directory")

    def test_read_only(self):
        with mounted("ro") as directory:
            self.refused(directory, "read-only")

    def test_full(self):
        with mounted("size=128k") as directory:
            self.refused(directory, "full")

    def test_smaller_than_asked_for(self):
        with mounted("size=16m") as directory:
            self.refused(directory, "full", "--swap-size", swap_size="32M")

    def test_checked_without_a_limit_too(self):
        self.assert_refused(run("run", "--swap-dir", "/nonexistent", "true"), 2, "does not exist")


class Permission(CommandTest):
    """Needs another user: runs a copy of the command as nobody."""

    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become nobody")
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        self.place.chmod(0o755)
        (self.place / "bin").mkdir()
        (self.place / "lib").mkdir()
        shutil.copy(BINARY, self.place / "bin")
        if os.path.exists(LIBRARY):
            shutil.copy(LIBRARY, self.place / "lib")

    def run_as_nobody(self, *arguments):
        return subprocess.run([self.place / "bin/polder", *arguments], capture_output=True, text=True, timeout=60,
                              check=False, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")

    def test_no_userfaultfd(self):
        device = Path("/dev/userfaultfd")
        if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text(encoding="ascii").strip() == "1":
            self.skipTest("everybody may use userfaultfd here")
        if device.exists() and device.stat().st_mode & stat.S_IRWXO:
            self.skipTest("everybody may use /dev/userfaultfd here")
        result = self.run_as_nobody("run", "--memory", "64M", "true")
        self.assert_refused(result, 2, "userfaultfd", "root", "udev", "vm.unprivileged_userfaultfd=1")
        doctor = self.run_as_nobody("doctor")
        self.assertEqual(doctor.returncode, 0)
        last = doctor.stdout.splitlines()[-1]
        self.assertTrue(last.startswith("tier: allocator only (hard limit, no paging)"), last)
        self.assertIn("udev", last)

    def test_unwritable_swap_directory(self):
        directory = self.place / "swap"
        directory.mkdir(mode=0o555)
        self.assert_refused(self.run_as_nobody("run", "--swap-dir", directory, "true"), 2, "not writable")

    def test_unwritable_statistics(self):
        self.assert_refused(self.run_as_nobody("run", "--stats", "/stats.json", "true"), 2, "/stats.json", "Permission")


class Command(CommandTest):
    def test_not_found(self):
        self.assert_refused(run("run", "--memory", "64M", "no-such-command"), 127, "no-such-command", "not found")
        self.assert_refused(run("run", "/no/such/command"), 127, "not found")
        self.assert_refused(run("run", ""), 127, "not found")

    def test_not_executable(self):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "data"
            file.write_text("data")
            file.chmod(0o644)
            self.assert_refused(run("run", file), 126, "data", "executable")
            self.assert_refused(run("run", directory), 126, "executable")
            self.assert_refused(run("run", "data", env={"PATH": directory}), 126, "executable")
            file.write_bytes(b"\x7fELF but not really")
            file.chmod(0o755)
            result = run("run", "--stats", f"{directory}/stats.json", file)
            self.assertIn(result.returncode, (2, 126, 127))

    def test_statistics_file_is_refused_before_the_start(self):
        with tempfile.TemporaryDirectory() as directory:
            mark = Path(directory) / "mark"
            result = run("run", "--stats", f"{directory}/no/such/stats.json", "touch", mark)
            self.assert_refused(result, 2, "--stats", "No such file")
            self.assertFalse(mark.exists())

    def test_no_empty_report_when_the_command_is_missing(self):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "stats.json"
            self.assertEqual(run("run", "--stats", file, "no-such-command").returncode, 127)
            self.assertFalse(file.exists())


if __name__ == "__main__":
    main()
