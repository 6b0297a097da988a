"""A redis-server for the length of a `with`, on a unix socket, without persistence, and what the demo asks of it."""

import contextlib
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import build
import cleanup


class ServerDied(Exception):
    pass


class Server:
    def __init__(self, process, path, log):
        self.process = process
        self.path = path
        self._log = log

    def log_tail(self):
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
        return ""

    def command(self, *words, while_waiting=None):
        """One command, one reply of one line or one bulk string."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.path))
            request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
            connection.sendall(request.encode())
            connection.settimeout(0.2)
            reply = b""
            while not self._whole(reply):
                try:
                    chunk = connection.recv(1 << 16)
                except socket.timeout:
                    if while_waiting:
                        while_waiting()
                    continue
                if not chunk:
                    raise ServerDied(self.log_tail())
                reply += chunk
        if reply.startswith(b"-"):
            raise ServerDied(f"{' '.join(words)}: {reply.decode(errors='replace')}")
        return reply.decode(errors="replace").split("\r\n", 1)[1 if reply.startswith(b"$") else 0].strip()

    @staticmethod
    def _whole(reply):
        if not reply.startswith(b"$"):
            return reply.endswith(b"\r\n")
        head, _, body = reply.partition(b"\r\n")
        return bool(_) and len(body) >= int(head[1:]) + 2

    def resident_peak(self):
        """VmHWM of the process itself (not of a wrapper before it)."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmHWM"))

    def shut_down(self):
        with contextlib.suppress(ServerDied, OSError):
            self.command("SHUTDOWN", "NOSAVE")
        try:
            return self.process.wait(120)
        except subprocess.TimeoutExpired:
            return None


@contextlib.contextmanager
def running(directory, wrapper=(), preexec_fn=None):
    """Starts the server, `wrapper` being the words before its name, and waits until it answers."""
    binary = shutil.which("redis-server")
    if binary is None:
        sys.exit("redis-server is not installed")
    path, log = pathlib.Path(directory, "redis.sock"), pathlib.Path(directory, "redis.log")
    command = [*wrapper, binary, "--save", "", "--appendonly", "no", "--port", "0", "--unixsocket", path,
               "--enable-debug-command", "local", "--dir", directory, "--loglevel", "warning", "--logfile", ""]
    with log.open("wb") as output, cleanup.start(command, env=build.plain_environment(), stdout=output, stderr=output,
                                                 preexec_fn=preexec_fn) as process:
        server = Server(process, path, log)

        def answers():
            if process.poll() is not None:
                raise ServerDied(f"status {process.returncode}\n{server.log_tail()}")
            try:
                return server.command("PING") == "+PONG"
            except OSError:
                return False

        if not cleanup.wait_for(answers, 30):
            raise ServerDied(f"no answer after 30 s\n{server.log_tail()}")
        try:
            yield server
        finally:
            path.unlink(missing_ok=True)


def now():
    return time.monotonic()
