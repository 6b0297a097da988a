"""Leaving nothing behind: whatever a script starts is undone when it ends, fails or is interrupted."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time


class Interrupted(Exception):
    """A signal asked the script to stop; raised in the main thread so that every `with` is left in order."""


@contextlib.contextmanager
def orderly_exit():
    """Turns SIGINT, SIGTERM and SIGHUP into Interrupted, once: later ones may not disturb the cleaning up."""

    def interrupt(number, _frame):
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)
    try:
        yield
    except Interrupted as reason:
        print(f"\nstopped by {reason}", file=sys.stderr)
        sys.exit(130)


def stop(process, patience=20):
    """Ends a process that was started with start(), politely first, with everything in its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def start(command, **options):
    """Runs a command in a process group of its own for the length of a `with`."""
    process = subprocess.Popen([str(word) for word in command], start_new_session=True, **options)
    try:
        yield process
    finally:
        stop(process)


def run(command, timeout, **options):
    """Runs a command to its end; returns (status, standard output). Kills its group at the timeout (status None)."""
    with start(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""


@contextlib.contextmanager
def scratch_directory(parent=None):
    with tempfile.TemporaryDirectory(prefix="polder-", dir=parent, ignore_cleanup_errors=True) as path:
        yield path


def wait_for(condition, seconds, interval=0.02):
    """Polls until the condition is true; False when it was not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True
