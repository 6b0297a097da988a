"""The simulator of the ageing policies: recorded traces are replayed, and nothing has fewer misses than OPT."""

import array
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ.get("POLDER_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("POLDER_BUILD_DIR", SOURCE / "build" / "release"))
PROGRAM = BUILD / "bench" / "ageing"
POLICIES = {"fifo", "clock", "enhanced-clock", "two-list-lru", "multi-gen-lru"}


def call(*words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300, check=False)


class Ageing(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.trace = pathlib.Path(directory.name, "trace")

    def write(self, pages):
        self.trace.write_bytes(array.array("I", pages).tobytes())

    def replay(self, *options):
        done = call(PROGRAM, self.trace, *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        by_size = collections.defaultdict(dict)
        for line in done.stdout.splitlines():
            row = json.loads(line)
            by_size[row["size"]][row["policy"]] = row
        return by_size

    def test_recorded_traces(self):
        for workload in ("zipf", "quicksort"):
            with self.subTest(workload=workload):
                done = call(BUILD / "bench" / "pressure", workload, "--bytes", "4M", "--record", self.trace,
                            "--operations", 20000)
                self.assertEqual(done.returncode, 0, done.stderr)
                for size, rows in self.replay("--sizes", "30,60").items():
                    self.assertIn(size, (30, 60))
                    self.assertEqual(set(rows), POLICIES | {"opt", "lru"})
                    self.assertEqual(sum(row["role"] == "default" for row in rows.values()), 1)
                    for row in rows.values():
                        self.assertGreaterEqual(row["misses"], rows["opt"]["misses"], row)

    def test_what_can_be_counted_by_hand(self):
        # 256 pages round and round in a memory of 128: LRU misses every time, OPT keeps half of them.
        rounds = 10
        self.write(list(range(256)) * rounds)
        rows = self.replay("--sizes", "50")[50]
        self.assertEqual(rows["lru"]["misses"], 256 * (rounds - 1))
        self.assertLessEqual(rows["opt"]["misses"], 130 * (rounds - 1))
        self.assertGreaterEqual(rows["opt"]["misses"], 120 * (rounds - 1))

    def test_what_fits_is_never_missed(self):
        self.write(list(range(200)) * 5)
        for row in self.replay("--sizes", "100")[100].values():
            self.assertEqual((row["misses"], row["stored"]), (0, 0), row)

    def test_usage(self):
        self.write([1, 2, 3])
        self.assertEqual(call(PROGRAM, self.trace, "--sizes", "0").returncode, 2)
        self.assertEqual(call(PROGRAM, self.trace, "--sizes", "10,").returncode, 2)
        self.assertEqual(call(PROGRAM).returncode, 2)
        self.assertEqual(call(PROGRAM, self.trace.with_name("none")).returncode, 1)
        self.trace.write_bytes(b"12345")
        self.assertEqual(call(PROGRAM, self.trace).returncode, 1)


if __name__ == "__main__":
    if not PROGRAM.exists():
        print("bench/ageing is not built")
        sys.exit(77)
    unittest.main()
