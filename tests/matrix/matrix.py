"""Real programs under the preloaded library: run as they are, then with it, and compared.

Every program runs without a limit and with a limit that is not reached; the ones whose memory comes from malloc also
with one that makes them page. All of these runs go through `polder run --stats`, whose figures prove that the library served
the program; where a program starts others, `witnesses` names those that must have had it too.

A script calls compare() or server() inside `with session() as directory:` and ends with finish().
"""

import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "abi"), str(TESTS / "programs")]
import harness  # noqa: E402
import under_limit  # noqa: E402
from harness import BUILD, LIBRARY, SOURCE, check, describe, finish  # noqa: E402,F401
from under_limit import POLDER, cleanup  # noqa: E402

UNLIMITED = None
ROOMY = "4G"
PATIENCE = 280  # seconds that a script may take before it stops itself, in order

_PR_SET_CHILD_SUBREAPER = 36


def find(name):
    """The program's path; ends the test as skipped where it is not installed. Debian's directories come first."""
    path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin") or shutil.which(name)
    if path is None:
        print(f"{name} is not installed (scripts/install-deps)")
        sys.exit(77)
    return path


# --- life of a script --------------------------------------------------------------------------------------------------

def _children(process):
    """Process ids below a process, its own not included."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            text = pathlib.Path(f"/proc/{process}/task/{task}/children").read_text()
            for child in map(int, text.split()):
                found += [child, *_children(child)]
    return found


def _end_descendants():
    """Kills what is left, including processes that left their group: as subreaper we inherit every orphan."""
    while left := _children(os.getpid()):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        time.sleep(0.01)


@contextlib.contextmanager
def session():
    """A scratch directory; afterwards, whatever happened, neither files nor processes are left."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    alarm = threading.Timer(PATIENCE, os.kill, (os.getpid(), signal.SIGTERM))
    alarm.daemon = True
    alarm.start()
    with cleanup.orderly_exit(), cleanup.scratch_directory("/var/tmp") as path:
        try:
            os.chmod(path, 0o755)
            yield pathlib.Path(path)
            alarm.cancel()
        finally:
            _end_descendants()


# --- the library in a process --------------------------------------------------------------------------------------

def polder_run(memory, stats, library_command=POLDER, hardened=False):
    """The words before a command. A limit of None is none at all."""
    limit = ["--memory", memory] if memory else []
    hardening = ["--hardened", "1"] if hardened else []
    return [str(library_command), "run", *limit, *hardening, "--stats", str(stats), "--"]


def has_library(process):
    with contextlib.suppress(OSError):
        return "/libpolder.so" in pathlib.Path(f"/proc/{process}/maps").read_text()
    return False


def pages(process):
    """True when the process has a pager of its own, which exists from the first pressure on."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            if pathlib.Path(f"/proc/{process}/task/{task}/comm").read_text().strip() == "polder-pager":
                return True
    return False


def check_stats(what, stats, memory, tight):
    """The report of one process: the library was there, kept the limit, and paged if it was meant to."""
    if stats is None:
        check(False, f"{what}: no statistics were written")
        return
    limit = size_in_bytes(memory)
    check(stats["charged"]["peak"] > 0, f"{what}: the library was not in the process", stats)
    check(stats["limit"] == limit, f"{what}: the limit did not arrive", stats)
    check(stats["io_errors"] == 0, f"{what}: I/O errors", stats)
    if memory:
        check(stats["charged"]["peak"] <= limit, f"{what}: charged beyond the limit", stats)
        check(stats["resident"]["peak"] <= limit, f"{what}: resident beyond the limit", stats)
    if tight:
        check(under_limit.paged(stats), f"{what}: nothing was paged", stats)
    else:
        check(not stats["armed"], f"{what}: the pager started without need", stats)


def size_in_bytes(memory):
    return int(memory[:-1]) << {"M": 20, "G": 30}[memory[-1]] if memory else 0


def read_stats(path):
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return None


# --- programs that run to an end -------------------------------------------------------------------------------------

def tree_digest(directory):
    """Names, kinds and contents of everything below a directory."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(directory).rglob("*")):
        digest.update(str(path.relative_to(directory)).encode() + b"\0")
        if path.is_symlink():
            digest.update(os.readlink(path).encode())
        elif path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Run:
    def __init__(self, status, stdout, stderr, files):
        self.returncode = status
        self.stdout = stdout
        self.stderr = stderr
        self.files = files  # digest of what it left in its directory

    def text(self):
        return (describe(self) + "\n" + self.stdout[-800:].decode(errors="replace") + "\n" +
                self.stderr[-800:].decode(errors="replace"))


def _execute(command, directory, environment, stdin, timeout):
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open(stdin, "rb")) if stdin else subprocess.DEVNULL
        process = stack.enter_context(cleanup.start(command, env=environment, cwd=directory, stdin=source,
                                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        try:
            out, err = process.communicate(timeout=timeout)
            status = process.returncode
        except subprocess.TimeoutExpired:
            out, err, status = b"", b"", harness.TIMED_OUT
    result = Run(status, out, err, tree_digest(directory))
    shutil.rmtree(directory)
    return result


def _loaded_images(prefix):
    """What the dynamic linker wrote: (program, had the library) of every program image it started."""
    images = []
    for path in prefix.parent.glob(prefix.name + ".*"):
        text = path.read_text(errors="replace")
        start = 0
        for match in re.finditer(r"transferring control: (.*)", text):
            images.append((os.path.basename(match.group(1)), f"calling init: {LIBRARY}\n" in text[start:match.start()]))
            start = match.end()
    return images


def _check_witnesses(what, images, expected):
    without = sorted({name for name, had in images if not had and name != "polder"})
    check(not without, f"{what}: started without the library", without)
    missing = sorted(set(expected) - {name for name, had in images if had})
    check(not missing, f"{what}: never seen with the library: {missing}", sorted(images))


def compare(directory, what, command, tight=None, stdin=None, timeout=360, witnesses=(), same_errors=True,
            hardened=False, **environment):
    """Runs the command as it is, and in every way with the library: same status (0), output and files.

    Each run has an empty working directory of its own, whose contents at the end count as output. `tight` is a limit with
    which the command itself must page; with `hardened` it and no limit are tried in a hardened heap too. `timeout` tells a
    run that hangs from a slow one (40 s on an idle machine; 120 s were not enough beside other tests). Returns the plain
    run, for checks against what is known.
    """
    variables = harness.environment(preload=False, **{"LC_ALL": "C", "HOME": str(directory), "TZ": "UTC", **environment})
    command = [str(word) for word in command]
    begin = time.monotonic()
    plain = _execute(command, directory / "run", variables, stdin, timeout)
    times = [time.monotonic() - begin]
    if plain.returncode != 0:
        check(False, f"{what} fails without the library", plain.text())
        return plain
    ways = [(memory, False) for memory in (UNLIMITED, ROOMY, *([tight] if tight else []))]
    if hardened and harness.HARDENED:
        ways += [(UNLIMITED, True), (tight, True)]
    for memory, hardening in ways:
        name = f"{what} [{memory or 'no limit'}{', hardened' if hardening else ''}]"
        stats, prefix = directory / "stats.json", directory / "images"
        tracing = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(prefix)} if witnesses else {}
        begin = time.monotonic()
        ours = _execute([*polder_run(memory, stats, hardened=hardening), *command], directory / "run", {**variables, **tracing}, stdin,
                        timeout)
        times.append(time.monotonic() - begin)
        check(ours.returncode == 0, f"{name}: status", ours.text())
        check(ours.stdout == plain.stdout, f"{name}: output", ours.text())
        check(ours.files == plain.files, f"{name}: files", ours.text())
        check(not same_errors or ours.stderr == plain.stderr, f"{name}: errors", ours.text())
        check(b"polder:" not in ours.stderr, f"{name}: the library had something to say", ours.text())
        check_stats(name, read_stats(stats), memory, memory is not None and memory == tight)
        if witnesses:
            _check_witnesses(name, _loaded_images(prefix), witnesses)
        for path in [stats, *directory.glob("images.*")]:
            path.unlink(missing_ok=True)
    print(f"{what}: " + " ".join(f"{seconds:.1f}" for seconds in times) + " s", flush=True)
    return plain


# --- servers -------------------------------------------------------------------------------------------------------

class Server:
    def __init__(self, process, log, stats, memory):
        self.memory = memory
        self._process = process
        self._log = log
        self._stats = stats

    def pid(self):
        """Of the server itself, which is the child of `polder run`."""
        text = pathlib.Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return int(text.split()[0])

    def processes(self):
        return [self.pid(), *_children(self.pid())]

    def alive(self):
        return self._process.poll() is None

    def log(self):
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace")[-3000:]
        return ""

    def stop(self, number, timeout=60):
        """Asks the server to end; its status."""
        with contextlib.suppress(OSError, IndexError):
            os.kill(self.pid(), number)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return harness.TIMED_OUT

    def stats(self):
        return read_stats(self._stats)


@contextlib.contextmanager
def server(directory, what, command, memory, ready, wrapper=(), library_command=POLDER, end_with=signal.SIGTERM,
           tight=False, judge_stats=True, **environment):
    """A server with the library for the length of a `with`: every process of it is seen to have the library, it ends with
    status 0 when asked to, and its statistics are judged. `ready` is polled until it is true. Yields None when the server
    did not start, which is a failure already noted."""
    name = f"{what} [{memory or 'no limit'}]"
    log, stats = directory / "server.log", directory / "server.json"
    variables = harness.environment(preload=False, **{"LC_ALL": "C", "HOME": str(directory), "TZ": "UTC", **environment})
    whole = [*wrapper, *polder_run(memory, stats, library_command), *command]
    with log.open("wb") as output, cleanup.start(whole, env=variables, cwd=directory, stdin=subprocess.DEVNULL,
                                                 stdout=output, stderr=output) as process:
        running = Server(process, log, stats, memory)
        if not cleanup.wait_for(lambda: not running.alive() or ready(), 30) or not running.alive():
            check(False, f"{name}: did not start", running.log())
            yield None
            return
        yield running
        for each in running.processes():
            # One that ended meanwhile has no mappings to show.
            mapped = has_library(each) or not os.path.exists(f"/proc/{each}/exe")
            check(mapped, f"{name}: process {each} is without the library", running.log())
        result = subprocess.CompletedProcess(command, running.stop(end_with))
        check(result.returncode == 0, f"{name}: status", describe(result) + "\n" + running.log())
        check("polder:" not in running.log(), f"{name}: the library had something to say", running.log())
        if judge_stats:
            check_stats(name, running.stats(), memory, tight)
    for path in (log, stats):
        path.unlink(missing_ok=True)


def client(command, timeout=60, **options):
    """A client without the library: what it prints, None when it failed."""
    status, output = cleanup.run(command, timeout, env=harness.environment(preload=False, LC_ALL="C"), **options)
    if status != 0:
        check(False, f"client {' '.join(map(str, command))[:100]}: status {status}", output)
        return None
    return output
