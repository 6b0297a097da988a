"""The benchmark of faults times pages in the states that it names."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

SOURCE = pathlib.Path(os.environ.get("POLDER_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("POLDER_BUILD_DIR", SOURCE / "build" / "release"))
PROGRAM = BUILD / "bench" / "faults"


def run(*arguments):
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "POLDER_CONF")}
    command = [str(word) for word in (PROGRAM, *arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


class Faults(unittest.TestCase):
    def test_every_page_is_timed(self):
        done = run("--benchmark_filter=-gib_", "--benchmark_format=json")
        self.assertEqual(done.returncode, 0, done.stderr)
        entries = {entry["run_name"].split("/")[0]: entry for entry in json.loads(done.stdout)["benchmarks"]}
        self.assertEqual(set(entries), {"untouched", "staged", "stored", "native", "raw_read"})
        for name, entry in entries.items():
            with self.subTest(page=name):
                self.assertFalse(entry.get("error_occurred"), entry.get("error_message"))
                self.assertGreater(entry["p50_us"], 0)
                self.assertLessEqual(entry["p50_us"], entry["p99_us"])


if __name__ == "__main__":
    if not PROGRAM.exists():
        print("bench/faults is not built")
        sys.exit(77)
    if run("--benchmark_filter=nothing").returncode == 77:
        print("this machine does not allow paging")
        sys.exit(77)
    unittest.main()
