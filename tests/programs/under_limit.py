"""Runs real programs under `polder run --memory …` and without it, watched by the kernel's figures from outside.

Paths come from the environment (tests/CMakeLists.txt), by default those of the release build. With POLDER_TEST_BARE=1
the limited run is made without the library and without its checks: that is how a test itself is tried out.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("POLDER_BUILD_DIR", SOURCE / "build" / "release"))
POLDER = os.environ.get("POLDER_BIN", BUILD / "bin" / "polder")
BARE = os.environ.get("POLDER_TEST_BARE") == "1"

sys.path.insert(0, str(SOURCE / "scripts" / "support"))
import cleanup  # noqa: E402


def fail(text):
    print(f"FAIL: {text}", flush=True)
    sys.exit(1)


def expect(condition, text):
    if not condition:
        fail(text)


@contextlib.contextmanager
def scratch():
    """A directory on the disk of the build, for inputs and outputs; gone afterwards, whatever happens."""
    with cleanup.orderly_exit(), cleanup.scratch_directory(BUILD) as path:
        yield pathlib.Path(path)


class Outcome:
    def __init__(self, status, seconds, digest, stats=None, watch=None):
        self.status = status
        self.seconds = seconds
        self.digest = digest  # SHA-256 of standard output
        self.stats = stats  # of --stats
        self.watch = watch  # of resident_watch


def _run(command, timeout, environment, stdin, keep_output):
    digest = hashlib.sha256()
    deadline = time.monotonic() + timeout
    begin = time.monotonic()
    source = open(stdin, "rb") if stdin else None
    target = open(keep_output, "wb") if keep_output else None
    with contextlib.ExitStack() as open_files:
        for file in (source, target):
            if file:
                open_files.enter_context(file)
        with cleanup.start(command, env=environment, stdin=source, stdout=cleanup.subprocess.PIPE) as process:
            timed_out = False

            def out_of_time(_number, _frame):
                nonlocal timed_out
                timed_out = True
                os.killpg(process.pid, cleanup.signal.SIGKILL)

            cleanup.signal.signal(cleanup.signal.SIGALRM, out_of_time)
            cleanup.signal.setitimer(cleanup.signal.ITIMER_REAL, max(0.1, deadline - time.monotonic()))
            while chunk := process.stdout.read(1 << 20):
                digest.update(chunk)
                if target:
                    target.write(chunk)
            status = process.wait()
            cleanup.signal.setitimer(cleanup.signal.ITIMER_REAL, 0)
    if timed_out:
        fail(f"no end after {timeout} s: {' '.join(map(str, command))}")
    return Outcome(status, time.monotonic() - begin, digest.hexdigest())


def plain(command, timeout=900, environment=None, stdin=None, keep_output=None):
    """The program as it is."""
    clean = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "POLDER_CONF")}
    return _run(command, timeout, {**clean, **(environment or {})}, stdin, keep_output)


def paged(stats):
    """Whether the process evicted and read back, by its report."""
    fills = stats["fills"]
    return stats["evictions"] > 0 and fills["swap"] + fills["readahead"] > 0


def limited(command, memory="64M", timeout=900, environment=None, stdin=None, keep_output=None, watch_options=(),
            wants_paging=True, library_options=()):
    """The program under the limit. Fails the test when the limit was not kept or nothing had to be evicted."""
    if BARE:
        return plain(command, timeout, environment, stdin, keep_output)
    with cleanup.scratch_directory(BUILD) as directory:
        stats, watch = pathlib.Path(directory, "stats.json"), pathlib.Path(directory, "watch.json")
        watcher = [BUILD / "tests" / "stress" / "resident_watch", "--limit", memory, "--report", watch, *watch_options]
        run = [POLDER, "run", "--memory", memory, *library_options, "--stats", stats]
        outcome = plain([*watcher, "--", *run, "--", *command], timeout, environment, stdin, keep_output)
        with contextlib.suppress(OSError, ValueError):
            outcome.stats = json.loads(stats.read_text())
        with contextlib.suppress(OSError, ValueError):
            outcome.watch = json.loads(watch.read_text())
    if outcome.status == 90:
        fail(f"resident memory was above {memory}: {outcome.watch}")
    if outcome.status == 91:
        fail(f"the process could not be watched: {outcome.watch}")
    expect(outcome.status == 0, f"status {outcome.status} of {' '.join(map(str, command))}")
    expect(outcome.stats is not None, "no statistics were written")
    expect(outcome.stats["io_errors"] == 0, f"{outcome.stats['io_errors']} I/O errors")
    if wants_paging:
        expect(paged(outcome.stats), f"nothing was paged: the test does not test: {outcome.stats}")
    return outcome


def describe(name, outcome, bare=None):
    """The line of figures that a passing test leaves in the log."""
    parts = [f"{outcome.seconds:.1f} s"]
    if bare is not None:
        parts.append(f"{bare.seconds:.1f} s without the limit")
    if outcome.watch:
        parts.append(f"peak {outcome.watch['peak'] / (1 << 20):.1f} MiB at {outcome.watch['rate_hz']:.0f} Hz")
    if outcome.stats:
        fills = outcome.stats["fills"]
        parts.append(f"evictions {outcome.stats['evictions']}, fills {sum(fills.values())} "
                     f"(swap {fills['swap']}, readahead {fills['readahead']})")
    print(f"{name}: " + "; ".join(parts), flush=True)
