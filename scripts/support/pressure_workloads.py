"""What `scripts/bench pressure` runs: cells of a workload, threads, data to the limit, and the size of objects.

A cell is run on a side: with words before the command that set a limit, or in a cgroup that does.
"""

import collections
import csv
import json
import os
import pathlib
import time

import build
import cleanup
import redis_server

WORKLOADS = ("uniform", "zipf", "sequential", "phases", "churn", "chase", "graph", "quicksort")
OF_EVERY_OBJECT_SIZE = ("uniform", "zipf", "churn", "chase")
TIMEOUT = 900

Times = collections.namedtuple("Times", "seconds warm_up device")


class Failure(Exception):
    pass


def device_statistics(directory):
    """The file with the statistics of the block device that the directory is on; None where there is none."""
    number = os.stat(directory).st_dev
    path = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    return path if path.exists() else None


class Cell(collections.namedtuple("Cell", "workload threads ratio object_size")):
    """A workload of bench/pressure."""

    @property
    def name(self):
        return f"{self.workload}-{self.ratio:g}x-{self.object_size}B-{self.threads}t"

    def run(self, built, size, times, wrapper=(), preexec_fn=None):
        command = [*wrapper, built.program("bench", "pressure"), self.workload, "--bytes", size, "--threads", self.threads,
                   "--object-size", self.object_size, "--seconds", times.seconds, "--warm-up", times.warm_up]
        if times.device:
            command += ["--device-statistics", times.device]
        status, output = cleanup.run(command, TIMEOUT, env=build.plain_environment(), preexec_fn=preexec_fn)
        if status is None:
            raise Failure(f"no end after {TIMEOUT} s")
        if status != 0:
            raise Failure(f"status {status}")
        return json.loads(output)


class RedisCell(Cell):
    """redis-server, filled, then asked for random keys by redis-benchmark. Its requests come one at a time from each of a
    few connections, so that a fault is waited for. Values are checked by the server, a part of them."""

    _value_bytes = 1000
    _key_bytes = 1160  # what a key and its value take
    _connections = 4
    _requests_per_second = 15_000
    _checked = 5000

    # A value is the digest of its key, again and again.
    _fill = """for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
                 local key = string.format('key:%012d', i)
                 redis.call('SET', key, string.rep(redis.sha1hex(key), 25))
               end
               return 'filled'"""
    _check = """local wrong = 0
                for i = 1, tonumber(ARGV[1]) do
                  local key = string.format('key:%012d', math.random(0, tonumber(ARGV[2]) - 1))
                  if redis.call('GET', key) ~= string.rep(redis.sha1hex(key), 25) then wrong = wrong + 1 end
                end
                return tostring(wrong)"""
    _keys_per_call = 10_000

    def run(self, built, size, times, wrapper=(), preexec_fn=None):
        keys = size // self._key_bytes
        try:
            with cleanup.scratch_directory() as directory, \
                    redis_server.running(directory, wrapper, preexec_fn) as server:
                begin = time.monotonic()
                for first in range(0, keys, self._keys_per_call):
                    last = min(first + self._keys_per_call, keys) - 1
                    server.command("EVAL", self._fill, "0", str(first), str(last))
                loaded = time.monotonic() - begin
                if times.warm_up:
                    self._get(server, keys, times.warm_up * self._requests_per_second)
                before = self._usage(server, times.device)
                figures = self._get(server, keys, times.seconds * self._requests_per_second)
                after = self._usage(server, times.device)
                wrong = server.command("EVAL", self._check, "0", str(self._checked), str(keys))
                status = server.shut_down()
        except redis_server.ServerDied as reason:
            raise Failure(f"the server died: {reason}") from reason
        if wrong != "0":
            raise Failure(f"{wrong} of {self._checked} values are wrong")
        if status != 0:
            raise Failure(f"the server ended with status {status}")
        used = dict(zip(("cpu_s", "read_bytes", "written_bytes"), (a - b for a, b in zip(after, before))))
        return {**figures, **used, "load_s": loaded}

    def _get(self, server, keys, requests):
        command = ["redis-benchmark", "-s", server.path, "-t", "get", "-r", keys, "-n", requests, "-c", self._connections,
                   "--csv", "--precision", "3"]
        status, output = cleanup.run(command, TIMEOUT, env=build.plain_environment())
        if status != 0:
            raise Failure("no end of redis-benchmark" if status is None else f"redis-benchmark ended with {status}")
        row = next(csv.DictReader(output.splitlines()))
        return {"operations_per_s": float(row["rps"]), "p50_us": float(row["p50_latency_ms"]) * 1000,
                "p99_us": float(row["p99_latency_ms"]) * 1000, "max_us": float(row["max_latency_ms"]) * 1000}

    @staticmethod
    def _usage(server, device):
        """CPU seconds of the server, bytes read and written by the device."""
        words = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        cpu = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        sectors = device.read_text(encoding="utf-8").split() if device else ["0"] * 7
        return cpu, int(sectors[2]) * 512, int(sectors[6]) * 512


def cells():
    """Every workload at twice the limit by one thread; then by more threads, with less and more data, and of other sizes."""
    yield from (Cell(workload, 1, 2, 512) for workload in WORKLOADS)
    yield from (Cell(workload, threads, 2, 512) for threads in (2, 4) for workload in WORKLOADS)
    yield from (Cell(workload, 1, ratio, 512) for ratio in (1.2, 4) for workload in WORKLOADS)
    yield from (Cell(workload, 1, 2, size) for size in (64, 4096, 65536) for workload in OF_EVERY_OBJECT_SIZE)
    yield from (RedisCell("redis", 1, ratio, 1000) for ratio in (1.2, 2, 4))
