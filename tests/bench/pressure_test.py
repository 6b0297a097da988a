"""The benchmark of programs whose data does not fit does what it says, on this malloc and under a limit of it."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

SOURCE = pathlib.Path(os.environ.get("POLDER_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("POLDER_BUILD_DIR", SOURCE / "build" / "release"))
POLDER = os.environ.get("POLDER_BIN", str(BUILD / "bin" / "polder"))
PROGRAM = BUILD / "bench" / "pressure"


def call(*arguments, wrapper=()):
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "POLDER_CONF")}
    command = [str(word) for word in (*wrapper, PROGRAM, *arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def workloads():
    return [line.split("\t")[0] for line in call("--list").stdout.splitlines()]


class Pressure(unittest.TestCase):
    def result(self, *arguments, wrapper=()):
        done = call(*arguments, "--seconds", 1, "--warm-up", 0, wrapper=wrapper)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stderr}")
        result = json.loads(done.stdout)
        self.assertEqual(result["workload"], arguments[0])
        self.assertGreater(result["operations"], 0)
        self.assertGreater(result["operations_per_s"], 0)
        self.assertLessEqual(result["p50_us"], result["p99_us"])
        self.assertLessEqual(result["p99_us"], result["p999_us"])
        return result

    def test_every_workload_below_and_beyond_a_limit(self):
        self.assertEqual(len(workloads()), 8)
        for name in workloads():
            with self.subTest(workload=name):
                self.result(name, "--bytes", "24M", "--threads", 2, wrapper=(POLDER, "run", "--memory", "16M", "--"))

    def test_sizes_of_objects(self):
        for name in ("uniform", "churn", "chase", "graph"):
            for size in (64, 4096):
                with self.subTest(workload=name, size=size):
                    self.result(name, "--bytes", "8M", "--object-size", size)

    def test_device_statistics(self):
        done = call("uniform", "--bytes", "4M", "--seconds", 1, "--warm-up", 0, "--device-statistics", "/nowhere")
        self.assertEqual(done.returncode, 1)
        self.assertIn("statistics", done.stderr)

    def test_usage(self):
        for arguments in ((), ("nothing",), ("uniform", "zipf"), ("uniform", "--bytes"), ("uniform", "--bytes", "1X"),
                          ("uniform", "--object-size", "60"), ("uniform", "--threads", "0"), ("uniform", "--speed", "1")):
            with self.subTest(arguments=arguments):
                self.assertEqual(call(*arguments).returncode, 2)
        self.assertEqual(call("uniform", "--bytes", "1K").returncode, 1)


if __name__ == "__main__":
    if not PROGRAM.exists():
        print("bench/pressure is not built")
        sys.exit(77)
    unittest.main()
