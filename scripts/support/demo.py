"""Debian's redis-server with 1 GiB of values under 256 MiB, beside itself without a limit and on the kernel's swap."""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading

import build
import cleanup
import kernel_swap
import redis_server
import report


class Side:
    """One run of the job: load, read everything back in random order, digest."""

    def __init__(self, name):
        self.name = name
        self.problem = None  # why there are no figures
        self.times = {}
        self.keys = None
        self.stored = None
        self.digest = None
        self.peak = None
        self.limit = None
        self.stats = None
        self.watch = None

    def total(self):
        return sum(self.times.values()) if len(self.times) == 3 else None


class Job:
    def __init__(self, loader, value_bytes, directory, progress, timeout):
        self._loader = loader
        self._bytes = value_bytes
        self._directory = directory
        self._progress = progress
        self._timeout = timeout

    def run(self, side, server, resident):
        """Drives the server; `resident()` is the text that ends the progress line."""
        for step in ("load", "read"):
            side.keys, side.stored, side.times[step] = self._drive(side, server, step, resident)
        begin = redis_server.now()

        def show():
            now = redis_server.now()
            self._progress.show(f"{side.name}: digest, {now - begin:.0f} s{resident()}", now)

        side.digest = server.command("DEBUG", "DIGEST", while_waiting=show)
        side.times["digest"] = redis_server.now() - begin
        self._progress.clear()

    def _drive(self, side, server, step, resident):
        command = [self._loader, server.path, step, self._bytes]
        with cleanup.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            begin, timer = redis_server.now(), threading.Timer(self._timeout, client.kill)
            timer.start()
            last = []
            try:
                for line in client.stdout:
                    last = line.split()
                    if last[0] == "end":
                        continue
                    done, everything = map(int, last)
                    now = redis_server.now()
                    rate = done / max(now - begin, 1e-3) / (1 << 20)
                    self._progress.show(f"{side.name}: {step} {100 * done // everything:3d} %, {rate:.0f} MiB/s"
                                        f"{resident()}", now)
            finally:
                timer.cancel()
            status = client.wait()
            message = client.stderr.read().strip()
        self._progress.clear()
        if status == 0:
            return int(last[1]), int(last[2]), float(last[3])
        if server.process.poll() is not None:
            raise redis_server.ServerDied(f"the server ended with status {server.process.returncode} during {step}\n"
                                          f"{server.log_tail()}")
        if status == -9:
            raise redis_server.ServerDied(f"{step} took more than {self._timeout} s")
        raise WrongData(message)


class WrongData(Exception):
    pass


def without_limit(job, directory, side):
    with redis_server.running(directory) as server:
        job.run(side, server, lambda: f", resident {server.resident_peak() >> 20} MiB")
        side.peak = server.resident_peak()
        server.shut_down()


def with_polder(job, directory, side, built, arguments):
    side.limit = report.parse_size(arguments.memory)
    stats, watch, live = (pathlib.Path(directory, name) for name in ("stats.json", "watch.json", "live.json"))
    watcher = [built.program("tests", "stress", "resident_watch"), "--limit", arguments.memory, "--report", watch,
               "--interval-ms", "33", "--exact-every", "30",
               "--progress", live, "--"]

    def resident():
        with contextlib.suppress(OSError, ValueError):
            seen = json.loads(live.read_text())
            return f", resident {seen['current'] >> 20} MiB, at most {seen['peak'] / (1 << 20):.1f} MiB"
        return ""

    polder = built.run(arguments.memory, "--swap-dir", arguments.swap_dir, "--stats", stats)
    try:
        with redis_server.running(directory, [*watcher, *polder]) as server:
            job.run(side, server, resident)
            status = server.shut_down()
    finally:
        with contextlib.suppress(OSError, ValueError):
            side.stats = json.loads(stats.read_text())
        with contextlib.suppress(OSError, ValueError):
            side.watch = json.loads(watch.read_text())
            side.peak = side.watch["peak"]
    if status not in (0, 90):
        raise redis_server.ServerDied(f"polder run ended with status {status}\n{server.log_tail()}")


def with_kernel_swap(job, directory, side, arguments, value_bytes):
    side.limit = report.parse_size(arguments.memory)
    with kernel_swap.limited(side.limit, arguments.swap_dir, 3 * value_bytes) as cgroup, \
            redis_server.running(directory, preexec_fn=cgroup.enter) as server:
        job.run(side, server, lambda: f", cgroup at most {(cgroup.peak_bytes() or 0) >> 20} MiB")
        side.peak = cgroup.peak_bytes()
        server.shut_down()


def table(sides):
    def row(name, value):
        return (name, *(value(side) if side.problem is None or value(side) != "-" else "-" for side in sides))

    def fills(side):
        if side.stats is None:
            return "-"
        return f"{side.stats['fills']['swap'] + side.stats['fills']['readahead']:,}"

    base = next((side.total() for side in sides if side.limit is None), None)
    rows = [
        row("limit", lambda s: "none" if s.limit is None else report.mebibytes(s.limit)),
        row("peak resident", lambda s: report.mebibytes(s.peak)),
        row("values stored", lambda s: report.mebibytes(s.stored)),
        row("pages filled from swap", fills),
        row("load", lambda s: report.seconds(s.times.get("load"))),
        row("read all, random order", lambda s: report.seconds(s.times.get("read"))),
        row("DEBUG DIGEST", lambda s: report.seconds(s.times.get("digest"))),
        row("whole job", lambda s: report.seconds(s.total())),
        row("times the unlimited job", lambda s: f"{s.total() / base:.1f}" if s.total() and base else "-"),
        row("digest", lambda s: s.digest[1:11] + "…" if s.digest else "-"),
    ]
    return report.table(rows, ("", *(side.name for side in sides)))


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--memory", default="256M", help="the limit (256M)")
    parser.add_argument("--values", default="1G", help="bytes of values (1G)")
    parser.add_argument("--swap-dir", default="/var/tmp", help="where both swap files lie (/var/tmp)")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that loading or reading may take (600)")
    parser.add_argument("--no-kernel", action="store_true", help="leave the kernel's swap out")
    parser.add_argument("--no-polder", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--build-dir", help="show this build instead of building the release preset")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if not arguments.build_dir:
        print("building …", flush=True)
    built = build.release(arguments.build_dir)
    value_bytes = report.parse_size(arguments.values)
    progress = report.ProgressLine()
    sides, failures = [], []
    for name, value in report.machine(arguments.swap_dir):
        print(f"{name}: {value}")
    print(flush=True)

    def attempt(name, function, *more, required):
        """Runs one side. A side that is only there for comparison may fail; its reason is printed."""
        side = Side(name)
        sides.append(side)
        with cleanup.scratch_directory() as directory:
            job = Job(built.program("bench", "redis_load"), value_bytes, directory, progress, arguments.timeout)
            try:
                function(job, directory, side, *more)
                print(f"{name}: done in {side.total():.1f} s", flush=True)
                return
            except WrongData as reason:
                side.problem = str(reason)
                failures.append(f"{name}: a byte differs: {reason}")
            except (redis_server.ServerDied, kernel_swap.Unavailable) as reason:
                side.problem = str(reason)
                if required:
                    failures.append(f"{name}: {reason}")
            progress.clear()
            print(f"{name}: not possible here, or not finished: {side.problem}", flush=True)

    attempt("no limit", without_limit, required=True)
    if not arguments.no_polder:
        attempt("polder", with_polder, built, arguments, required=True)
    if not arguments.no_kernel:
        attempt("kernel swap", with_kernel_swap, arguments, value_bytes, required=False)

    print(f"\n{table(sides)}\n")
    wanted = sides[0].digest
    failures += [f"{side.name}: the digest is {side.digest}, not {wanted}" for side in sides[1:]
                 if side.digest and side.digest != wanted]
    polder = next((side for side in sides if side.name == "polder"), None)
    if polder is not None and polder.problem is None:
        failures += judge_peak(polder)
    for failure in failures:
        print(f"FAIL: {failure}")
    if not failures:
        print(f"OK: every byte of {sides[0].stored:,} was right, and the digests are equal")
    return 1 if failures else 0


def judge_peak(side):
    watch = side.watch
    if watch is None or watch["samples"] == 0:
        return ["polder: the kernel's figures could not be read"]
    print(f"polder: resident in the library's address range by /proc/PID/smaps, {watch['samples']} samples at "
          f"{watch['rate_hz']:.0f} Hz: at most {report.mebibytes(watch['peak'])}; "
          f"{watch['exact_samples']} of the process stopped: at most {report.mebibytes(watch['exact_peak'])}; between "
          f"samples, by the kernel's high-water mark: at most {report.mebibytes(watch['continuous_peak'])}")
    if watch["above"] or watch["exact_above"] or watch["continuous_above"]:
        return [f"polder: resident memory was above the limit: {watch}"]
    if watch["rate_hz"] < 20:
        return [f"polder: only {watch['rate_hz']:.1f} samples a second: the peak is not proved"]
    return []


if __name__ == "__main__":
    os.umask(0o077)
    with cleanup.orderly_exit():
        STATUS = main()
    sys.exit(STATUS)
