"""What `scripts/bench malloc` runs: the workloads of malloc_suite, and real programs whose results are checked.

A workload is prepared once, then run under each allocator; each run gives a Sample or raises Failure.
"""

import json
import os
import pathlib
import random
import re
import shutil
import sys

import build
import cleanup

PROGRAMS = build.ROOT / "bench" / "malloc" / "programs"
TIMEOUT = 300


class Failure(Exception):
    pass


class Sample:
    """Of one run: seconds of wall clock and of CPU, peak of resident memory, ns per operation where there are any."""

    def __init__(self, report_of_run, ns_per_operation=None):
        self.wall = report_of_run["wall"]
        self.cpu = report_of_run["user"] + report_of_run["system"]
        self.peak = report_of_run["peak_kib"]
        self.ns = ns_per_operation


class Bench:
    """Where a run finds its programs and leaves its files."""

    def __init__(self, built, directory, scale):
        self.built = built
        self.directory = pathlib.Path(directory)
        self.scale = scale  # 1, or less for a look whether everything works
        self._measure = built.program("bench", "malloc", "measure")

    def client(self):
        """The same for a second process during a run."""
        directory = self.directory / "client"
        directory.mkdir(exist_ok=True)
        return Bench(self.built, directory, self.scale)

    def count(self, full):
        return max(1, round(full * self.scale))

    def measured(self, command, variables):
        """The words that run a command under `measure`, and where its report will be."""
        path = self.directory / "measured.json"
        path.unlink(missing_ok=True)
        settings = [f"{name}={value}" for name, value in variables.items()]
        return [self._measure, path, *settings, "--", *command], path

    def run(self, command, variables, standard_input=None):
        """(report, standard output) of a command."""
        words, path = self.measured(command, variables)
        with open(standard_input or os.devnull, "rb") as source:
            status, output = cleanup.run(words, TIMEOUT, env=build.plain_environment(), stdin=source)
        if status is None:
            raise Failure(f"no end after {TIMEOUT} s")
        if status != 0:
            raise Failure(f"status {status}")
        return json.loads(path.read_text(encoding="utf-8")), output


class SuiteWorkload:
    """One workload of malloc_suite."""

    kind = "suite"

    def __init__(self, name):
        self.name = name
        self._command = None

    def missing(self):
        return None

    def prepare(self, bench):
        program = bench.built.program("bench", "malloc", "malloc_suite")
        self._command = [program, self.name, "--scale", bench.scale]
        if self.name == "trace":
            path = bench.directory / "trace"
            status, _ = cleanup.run([program, "--write-trace", path, "--scale", bench.scale], TIMEOUT)
            if status != 0:
                raise Failure(f"the trace could not be written: status {status}")
            self._command += ["--trace", path]

    def run(self, bench, variables):
        measured, output = bench.run(self._command, variables)
        return Sample(measured, json.loads(output)["ns_per_operation"])


class Program:
    """A program that prints the same whatever malloc it runs on: what it prints without a preload is what is right."""

    kind = "program"

    def __init__(self, name, needs, command, standard_input=None, environment=None, expected=r"\S"):
        self.name = name
        self._needs = needs
        self._make_command = command  # of the bench
        self._standard_input = standard_input
        self._environment = environment or {}
        self._pattern = expected
        self._command = None
        self._expected = None

    def missing(self):
        return None if self._needs is None or shutil.which(self._needs) else self._needs

    def prepare(self, bench):
        self._command = self._make_command(bench)
        self._expected = self._result(bench, {})[1]
        if not re.search(self._pattern, self._expected):
            raise Failure(f"an unexpected result without a preload: {self._expected[:200]!r}")

    def run(self, bench, variables):
        measured, result = self._result(bench, variables)
        if result != self._expected:
            raise Failure(f"expected {self._expected[:200]!r}, got {result[:200]!r}")
        return Sample(measured)

    def _result(self, bench, variables):
        return bench.run(self._command, {**self._environment, **variables}, self._standard_input)


class Compiler(Program):
    """gcc: its result is the object file."""

    def __init__(self):
        super().__init__("gcc", "gcc", self._compile)
        self._object = None

    def _compile(self, bench):
        source = bench.directory / "generated.c"
        source.write_text(c_source(bench.count(160)), encoding="utf-8")
        self._object = bench.directory / "generated.o"
        return ["gcc", "-O2", "-c", source, "-o", self._object]

    def _result(self, bench, variables):
        self._object.unlink(missing_ok=True)
        measured, _ = bench.run(self._command, variables)
        return measured, self._object.read_bytes().hex()


def c_source(functions):
    """Functions with loops, switches and structures: enough for every pass of a compiler to have work."""
    pick = random.Random(20).randrange
    lines = ["struct item { unsigned key, value; struct item *next; };", "extern unsigned table[256];", ""]
    for number in range(functions):
        lines += [f"unsigned f{number}(struct item *items, unsigned count, unsigned seed) {{",
                  f"  unsigned sum = seed ^ {pick(1 << 16)}u;", "  for (unsigned i = 0; i < count; ++i) {",
                  f"    struct item *item = &items[(i * {pick(1, 99, 2)}u + sum) % count];",
                  f"    switch (item->key % {pick(6, 14)}u) {{"]
        for case in range(5):
            lines.append(f"      case {case}: sum += item->value * {pick(1 << 12)}u + "
                         f"table[(sum >> {pick(1, 20)}) & 255]; if (sum & {1 << pick(16)}u) item = item->next; break;")
        lines += ["      default: sum ^= item->value << (sum & 7); }",
                  f"    if (item && item->value > sum) item->value -= sum % {pick(3, 99)}u;", "  }",
                  f"  return sum + {'f%d(items, count / 2, sum)' % pick(number) if number else 'count'};", "}", ""]
    return "\n".join(lines)


class Redis:
    """redis-server, filled by redis-benchmark over a unix socket. The memory and CPU time are the server's; the wall
    clock is the client's, whose malloc is always the same."""

    kind = "program"
    name = "redis"
    _keys = 400_000
    _pushes = 400_000

    def missing(self):
        return next((name for name in ("redis-server", "redis-benchmark", "redis-cli") if not shutil.which(name)), None)

    def prepare(self, bench):
        pass

    def run(self, bench, variables):
        socket_path = bench.directory / "redis.sock"
        command = ["redis-server", "--save", "", "--appendonly", "no", "--port", "0", "--unixsocket", socket_path,
                   "--dir", bench.directory, "--loglevel", "warning", "--logfile", bench.directory / "redis.log"]
        words, path = bench.measured(command, variables)
        with cleanup.start(words, env=build.plain_environment()) as process:
            def ask(*question):
                return cleanup.run(["redis-cli", "-s", str(socket_path), *question], 30,
                                   stderr=cleanup.subprocess.DEVNULL)[1].strip()

            if not cleanup.wait_for(lambda: ask("PING") == "PONG", 30, 0.05):
                raise Failure("redis-server does not answer")
            wall = self._load(bench, socket_path, "set", bench.count(self._keys))
            wall += self._load(bench, socket_path, "lpush", bench.count(self._pushes))
            pushed, keys = ask("LLEN", "mylist"), ask("DBSIZE")
            if pushed != str(bench.count(self._pushes)):
                raise Failure(f"redis has {pushed} elements in its list")
            if int(keys) <= bench.count(self._keys) // 2:
                raise Failure(f"redis has {keys} keys")
            ask("SHUTDOWN", "NOSAVE")
            status = process.wait(60)
        if status != 0:
            raise Failure(f"redis-server ended with status {status}")
        return Sample({**json.loads(path.read_text(encoding="utf-8")), "wall": wall})

    @staticmethod
    def _load(bench, socket_path, test, count):
        measured, _ = bench.client().run(["redis-benchmark", "-s", socket_path, "-t", test, "-n", count, "-r", count,
                                            "-d", "200", "-c", "20", "-P", "16", "-q"], {})
        return measured["wall"]


def programs():
    python = sys.executable
    return [
        Redis(),
        Program("sqlite", "sqlite3", lambda bench: ["sqlite3", ":memory:"], PROGRAMS / "database.sql",
                expected=r"ok\s*$"),
        Program("python", None, lambda bench: [python, PROGRAMS / "objects.py", bench.count(5)],
                environment={"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}),
        Program("lua", "lua5.4", lambda bench: ["lua5.4", PROGRAMS / "tables.lua", bench.count(36)]),
        Compiler(),
        Program("stl", None, lambda bench: [bench.built.program("bench", "malloc", "stl"), bench.count(50)]),
        Program("perl", "perl", lambda bench: ["perl", PROGRAMS / "text.pl", bench.count(6)],
                environment={"PERL_HASH_SEED": "0"}),
    ]


def suite(built):
    status, output = cleanup.run([built.program("bench", "malloc", "malloc_suite"), "--list"], 30)
    if status != 0:
        sys.exit(f"malloc_suite --list ended with status {status}")
    return [SuiteWorkload(line.split("\t")[0]) for line in output.splitlines()]
