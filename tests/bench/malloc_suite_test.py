"""The benchmark programs do what they say, on this malloc: every workload at a tiny size, whatever time it takes."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ.get("POLDER_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("POLDER_BUILD_DIR", SOURCE / "build" / "release"))
LIBRARY = os.environ.get("POLDER_LIB", str(BUILD / "lib" / "libpolder.so"))
PROGRAMS = BUILD / "bench" / "malloc"
TINY = "0.002"


def call(program, *arguments, preload=True):
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "POLDER_CONF")}
    if preload:
        environment["LD_PRELOAD"] = LIBRARY
    command = [str(word) for word in (PROGRAMS / program, *arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def workloads():
    return [line.split("\t")[0] for line in call("malloc_suite", "--list", preload=False).stdout.splitlines()]


class Suite(unittest.TestCase):
    def result(self, *arguments):
        done = call("malloc_suite", *arguments)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stderr}")
        return json.loads(done.stdout)

    def test_every_workload(self):
        names = workloads()
        self.assertGreaterEqual(len(names), 16)
        self.assertEqual(len(names), len(set(names)))
        for name in names:
            with self.subTest(workload=name):
                result = self.result(name, "--scale", TINY)
                self.assertEqual(result["workload"], name)
                self.assertGreater(result["operations"], 0)
                self.assertGreater(result["ns_per_operation"], 0)

    def test_other_numbers_of_threads(self):
        for name in ("larson", "threadtest", "xmalloc", "cache_scratch", "sh8", "mstress", "replace_threads"):
            for threads in (1, 3):
                with self.subTest(workload=name, threads=threads):
                    self.assertEqual(self.result(name, "--scale", TINY, "--threads", threads)["threads"], threads)

    def test_damaged_marks_are_noticed(self):
        done = call("malloc_suite", "--self-check")
        self.assertEqual((done.returncode, done.stdout), (0, "self-check: ok\n"), done.stderr)

    def test_traces(self):
        with tempfile.TemporaryDirectory() as directory:
            traces = [pathlib.Path(directory, name) for name in ("one", "same", "other")]
            for path, seed in zip(traces, (5, 5, 6)):
                done = call("malloc_suite", "--write-trace", path, "--scale", TINY, "--seed", seed)
                self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(traces[0].read_bytes(), traces[1].read_bytes())
            self.assertNotEqual(traces[0].read_bytes(), traces[2].read_bytes())
            self.result("trace", "--scale", "0", "--trace", traces[0])

            whole = traces[0].read_bytes()
            first = whole[24:32]  # the malloc of slot 0
            for name, wrong in (("short", whole[:-8]), ("magic", b"x" + whole[1:]), ("empty", b""),
                                ("twice", whole[:32] + first + whole[40:]),
                                ("slot", whole[:24] + b"\xff\xff\xff\x3f" + whole[28:]),
                                ("size", whole[:28] + b"\x00\x00\x00\x00" + whole[32:])):
                with self.subTest(trace=name):
                    path = pathlib.Path(directory, name)
                    path.write_bytes(wrong)
                    done = call("malloc_suite", "trace", "--trace", path, "--scale", "0")
                    self.assertEqual(done.returncode, 1, f"{done.stdout}{done.stderr}")
                    self.assertIn("trace", done.stderr)

    def test_usage(self):
        for arguments in ((), ("nothing",), ("larson", "batch"), ("larson", "--scale"), ("larson", "--scale", "x"),
                          ("larson", "--speed", "1")):
            with self.subTest(arguments=arguments):
                self.assertEqual(call("malloc_suite", *arguments).returncode, 2)


class Programs(unittest.TestCase):
    def test_stl_prints_the_same_on_every_malloc(self):
        ours, plain = call("stl", 1), call("stl", 1, preload=False)
        self.assertEqual((ours.returncode, plain.returncode), (0, 0), ours.stderr)
        self.assertEqual(ours.stdout, plain.stdout)
        self.assertEqual(len(plain.stdout.split()), 4)

    def test_malloc_loop(self):
        self.assertEqual(call("malloc_loop", 1000).returncode, 0)
        self.assertEqual(call("malloc_loop").returncode, 2)

    def test_measure(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "report")

            def measured(*command):
                status = call("measure", path, "A=b c", "--", *command, preload=False).returncode
                return status, json.loads(path.read_text(encoding="utf-8"))

            status, report = measured("sh", "-c", 'test "$A" = "b c" && exit 7')
            self.assertEqual((status, report["status"]), (7, 7))
            self.assertGreater(report["wall"], 0)
            self.assertGreater(report["peak_kib"], 0)
            status, report = measured("sh", "-c", "kill -9 $$")
            self.assertEqual((status, report["status"]), (137, 137))
            # 64 MiB of an array show, and nothing of whoever started it.
            status, small = measured("true")
            self.assertLess(small["peak_kib"], 8 << 10)
            status, large = measured(sys.executable, "-c", "x = bytearray(b'x') * (64 << 20)")
            self.assertEqual(status, 0)
            self.assertGreater(large["peak_kib"], 64 << 10)


if __name__ == "__main__":
    if not (PROGRAMS / "malloc_suite").exists():
        print("bench/malloc is not built")
        sys.exit(77)
    unittest.main()
