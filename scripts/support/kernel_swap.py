"""The kernel's own answer to too little memory, for comparison: a memory cgroup and a swap file, made and removed here.

Needs root. `Unavailable` says why a machine does not allow it.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

ROOT = pathlib.Path("/sys/fs/cgroup")
SWAP_NAME = re.compile(r"polder-kernel-swap\.(\d+)$")


class Unavailable(Exception):
    pass


def _write(path, text):
    try:
        path.write_text(str(text))
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror}") from error


class MemoryCgroup:
    """A memory cgroup of version 1 or 2. Use as a context; `enter` is for a child before it executes its program."""

    def __init__(self, limit, name="polder-compare"):
        self.limit = limit
        if (ROOT / "memory" / "memory.limit_in_bytes").exists():
            self.version = 1
            self.path = ROOT / "memory" / f"{name}-{os.getpid()}"
        elif (ROOT / "cgroup.controllers").exists():
            if "memory" not in (ROOT / "cgroup.controllers").read_text().split():
                raise Unavailable("cgroup v2 has no memory controller here")
            self.version = 2
            self.path = ROOT / f"{name}-{os.getpid()}"
        else:
            raise Unavailable("there is no memory cgroup")

    def __enter__(self):
        try:
            self.path.mkdir()
        except OSError as error:
            raise Unavailable(f"cannot make {self.path}: {error.strerror}") from error
        try:
            if self.version == 1:
                _write(self.path / "memory.limit_in_bytes", self.limit)
                with contextlib.suppress(Unavailable):
                    _write(self.path / "memory.swappiness", 60)
                if not (self.path / "memory.memsw.limit_in_bytes").exists():
                    raise Unavailable("the kernel does not account swap to cgroups")
            else:
                enabled = ROOT / "cgroup.subtree_control"
                if "memory" not in enabled.read_text().split():
                    _write(enabled, "+memory")
                _write(self.path / "memory.max", self.limit)
                _write(self.path / "memory.swap.max", "max")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_):
        self._remove()

    def _processes(self):
        with contextlib.suppress(OSError):
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        return []

    def _remove(self):
        for _ in range(200):
            for process in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.path.rmdir()
            if not self.path.exists():
                return
            time.sleep(0.05)
        print(f"warning: could not remove {self.path}")

    def enter(self):
        """Moves the calling process in. For preexec_fn: allocates little and raises on failure."""
        descriptor = os.open(self.path / "cgroup.procs", os.O_WRONLY)
        os.write(descriptor, b"0")
        os.close(descriptor)

    def peak_bytes(self):
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with contextlib.suppress(OSError):
                return int((self.path / name).read_text())
        return None


def _tool(name):
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def _call(*command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise Unavailable(f"{os.path.basename(command[0])}: {result.stderr.strip() or result.stdout.strip()}")


def _remove_swap(path):
    areas = pathlib.Path("/proc/swaps").read_text(encoding="utf-8").split()
    if str(path) in areas:
        _call(_tool("swapoff"), str(path))
    path.unlink(missing_ok=True)


def remove_stale_swap(directory):
    """Undoes what a killed run left behind."""
    for path in pathlib.Path(directory).glob("polder-kernel-swap.*"):
        match = SWAP_NAME.search(path.name)
        if match and not pathlib.Path("/proc", match.group(1)).exists():
            with contextlib.suppress(Unavailable, OSError):
                _remove_swap(path)


@contextlib.contextmanager
def swap_file(directory, size):
    """A swap file of `size` bytes in use for the length of a `with`, preferred to any other swap the machine has."""
    if os.geteuid() != 0:
        raise Unavailable("swapon needs root")
    make_swap, swap_on = _tool("mkswap"), _tool("swapon")
    remove_stale_swap(directory)
    path = pathlib.Path(directory).resolve() / f"polder-kernel-swap.{os.getpid()}"
    try:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Unavailable(f"cannot make a swap file in {directory}: {error.strerror}") from error
        _call(make_swap, str(path))
        _call(swap_on, "--priority", "32000", str(path))
        yield path
    finally:
        _remove_swap(path)


@contextlib.contextmanager
def limited(limit, directory, swap_size):
    """A cgroup of `limit` bytes with swap behind it. Yields the cgroup."""
    with swap_file(directory, swap_size), MemoryCgroup(limit) as cgroup:
        yield cgroup
