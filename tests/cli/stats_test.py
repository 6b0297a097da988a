#!/usr/bin/env python3
"""--stats: the report, its meaning and what is left behind (nothing)."""

import json
import os
import tempfile
from pathlib import Path

from support import PYTHON_ON_MALLOC, CommandTest, main, run

LIMIT = 32 << 20

# Four times the limit, every byte checked.
PRESSED = """
blocks = [bytes([i % 251]) * 65536 for i in range(2048)]
assert all(block == bytes([i % 251]) * 65536 for i, block in enumerate(blocks))
"""


class Statistics(CommandTest):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.file = Path(directory.name) / "stats.json"

    def report(self, *arguments, env=None):
        """Runs under --stats; the report, and that the segment's file is gone."""
        with tempfile.TemporaryDirectory() as directory:
            result = run("run", "--stats", self.file, *arguments, env={"XDG_RUNTIME_DIR": directory, **(env or {})})
            self.assertEqual(os.listdir(directory), [])
        return result, json.loads(self.file.read_text(encoding="utf-8"))

    def test_shape(self):
        result, report = self.report("sh", "-c", "exit 3")
        self.assertEqual(result.returncode, 3)
        self.assertEqual(report["exit_status"], 3)
        self.assertIsNone(report["signal"])
        self.assertEqual(report["command"], ["sh", "-c", "exit 3"])
        for key in ("limit", "stored", "faults", "soft_faults", "evictions", "bytes_read", "bytes_written", "io_errors",
                    "metadata", "forks"):
            self.assertIsInstance(report[key], int, key)
        for group, keys in (("resident", ("peak", "current")), ("charged", ("peak", "current")),
                            ("fills", ("zero", "staged", "swap", "same_filled", "readahead"))):
            for key in keys:
                self.assertIsInstance(report[group][key], int, key)
        for key in ("fill_wait_seconds", "wall_seconds"):
            self.assertIsInstance(report[key], float, key)
        self.assertIn("tier", report)
        self.assertIn("backend", report)

    def test_signal(self):
        result, report = self.report("sh", "-c", "kill -9 $$")
        self.assertEqual(result.returncode, -9)
        self.assertEqual((report["exit_status"], report["signal"]), (137, 9))

    def test_replaces_an_older_report(self):
        self.file.write_text("x" * 100000)
        _, report = self.report("true")
        self.assertEqual(report["exit_status"], 0)

    def test_without_limit_nothing_is_evicted(self):
        result, report = self.report("python3", "-c", PRESSED, env=PYTHON_ON_MALLOC)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(report["limit"], 0)
        self.assertFalse(report["armed"])
        self.assertEqual((report["evictions"], report["bytes_written"], report["backend"]), (0, 0, "none"))
        self.assertGreater(report["charged"]["peak"], 128 << 20)

    def test_under_pressure(self):
        for backend in ("uring", "workers"):
            with self.subTest(backend=backend):
                result, report = self.report("--memory", "32M", "--io", backend, "--", "python3", "-c", PRESSED,
                                             env=PYTHON_ON_MALLOC)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(report["limit"], LIMIT)
                self.assertTrue(report["armed"])
                self.assertEqual(report["tier"], "full")
                self.assertEqual(report["backend"], backend)
                self.assertGreater(report["resident"]["samples"], 0)
                self.assertGreater(report["resident"]["peak"], 0)
                self.assertLessEqual(report["resident"]["peak"], LIMIT)
                self.assertLessEqual(report["charged"]["peak"], LIMIT)
                self.assertLessEqual(report["charged"]["current"], report["charged"]["peak"])
                self.assertGreater(report["evictions"], 0)
                self.assertGreater(report["faults"], 0)
                self.assertGreater(report["fill_wait_seconds"], 0)
                self.assertEqual(report["io_errors"], 0)
                # What was read came from somewhere.
                self.assertGreater(sum(report["fills"].values()), 0)

    def test_counts_survive_a_violent_end(self):
        script = PRESSED + "import os; os.kill(os.getpid(), 9)"
        result, report = self.report("--memory", "32M", "--", "python3", "-c", script, env=PYTHON_ON_MALLOC)
        self.assertEqual(result.returncode, -9)
        self.assertGreater(report["evictions"], 0)

    def test_other_processes_do_not_count(self):
        # The shell is the command; the interpreter it starts is not.
        script = f"python3 -c '{PRESSED}'; exit 0"
        result, report = self.report("--memory", "32M", "--", "sh", "-c", script, env=PYTHON_ON_MALLOC)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(report["evictions"], 0)

    def test_a_program_that_replaces_itself_counts_anew(self):
        script = f"exec python3 -c '{PRESSED}'"
        result, report = self.report("--memory", "32M", "--", "sh", "-c", script, env=PYTHON_ON_MALLOC)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertGreater(report["evictions"], 0)

    def test_report_to_a_pipe(self):
        result = run("run", "--stats", "/dev/stdout", "true")
        self.assertEqual(json.loads(result.stdout)["exit_status"], 0)


if __name__ == "__main__":
    main()
