"""redis, memcached and nginx with curl: loaded, asked for every byte, and ended in order, in every way."""

import hashlib
import os
import pathlib
import random
import socket
import subprocess
import sys

import matrix
from matrix import cleanup, check, client, find

sys.path.insert(0, os.path.join(matrix.SOURCE, "scripts", "support"))
import redis_server  # noqa: E402

WAYS = (matrix.UNLIMITED, matrix.ROOMY)


def listens(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def value(index, size):
    return hashlib.blake2b(b"%d" % index, digest_size=50).hexdigest().encode() * (size // 100)


# --- redis -----------------------------------------------------------------------------------------------------------

REDIS_VALUES = 24_000  # of 2 KiB


def redis_load(path, memory):
    """All values in, half of them replaced, all out again; then a fork: the background save while values change."""
    name = f"redis [{memory or 'no limit'}]"
    connection = redis_server.Server(None, path, pathlib.Path(os.devnull))
    with socket.socket(socket.AF_UNIX) as pipe:
        pipe.connect(str(path))
        stream = pipe.makefile("rwb")

        def ask(*requests):
            for words in requests:
                stream.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
            stream.flush()
            replies = []
            for _ in requests:
                head = stream.readline()
                replies.append(stream.read(int(head[1:]) + 2)[:-2] if head[:1] == b"$" and head != b"$-1\r\n" else head)
            return replies

        for first in range(0, REDIS_VALUES, 200):
            ask(*((b"SET", b"k%d" % i, value(i, 2000)) for i in range(first, first + 200)))
        for first in range(0, REDIS_VALUES, 400):
            ask(*((b"SET", b"k%d" % i, value(i + 1, 2000)) for i in range(first, first + 200)))
        wrong = 0
        for first in range(0, REDIS_VALUES, 200):
            moved = 1 if first % 400 == 0 else 0
            replies = ask(*((b"GET", b"k%d" % i) for i in range(first, first + 200)))
            wrong += sum(reply != value(first + at + moved, 2000) for at, reply in enumerate(replies))
        check(wrong == 0, f"{name}: {wrong} wrong values")
        digest = connection.command("DEBUG", "DIGEST")
        check(ask([b"BGSAVE"])[0].startswith(b"+Background"), f"{name}: BGSAVE")
        for i in range(0, 2000, 5):
            ask([b"APPEND", b"k%d" % i, b"tail"])
        saved = cleanup.wait_for(lambda: "rdb_bgsave_in_progress:0" in connection.command("INFO", "persistence"), 60, 0.1)
        check(saved and "rdb_last_bgsave_status:ok" in connection.command("INFO", "persistence"), f"{name}: saved")
        # The child saved what was there when it was made.
        connection.command("DEBUG", "RELOAD", "NOSAVE")
        check(connection.command("DEBUG", "DIGEST") == digest, f"{name}: what was saved has another digest")
        return digest


def redis(directory):
    digests = set()
    for memory in (*WAYS, "32M"):
        path = directory / "redis.sock"
        command = [find("redis-server"), "--save", "", "--appendonly", "no", "--port", "0", "--unixsocket", path,
                   "--enable-debug-command", "local", "--dir", directory, "--rdbcompression", "no"]
        with matrix.server(directory, "redis", command, memory, lambda: listens(path), tight=memory == "32M") as server:
            if server:
                digests.add(redis_load(path, memory))
        for left in (path, directory / "dump.rdb"):
            left.unlink(missing_ok=True)
    check(len(digests) == 1, "redis: another digest", digests)


# --- memcached ---------------------------------------------------------------------------------------------------------

def memcached(directory):
    count, size = 30_000, 2000
    for memory in (*WAYS, "32M"):
        name, path = f"memcached [{memory or 'no limit'}]", directory / "memcached.sock"
        command = [find("memcached"), "-s", path, "-m", "200", "-t", "4", "-u", "root"]
        with matrix.server(directory, "memcached", command, memory, lambda: listens(path), tight=memory == "32M") as server:
            if server is None:
                continue
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                stream = connection.makefile("rwb")
                for i in range(count):
                    stream.write(b"set k%d 0 0 %d noreply\r\n%b\r\n" % (i, size, value(i, size)))
                stream.write(b"version\r\n")
                stream.flush()
                check(stream.readline().startswith(b"VERSION"), f"{name}: values are stored")
                wrong = 0
                for first in range(0, count, 100):
                    stream.write(b"get " + b" ".join(b"k%d" % i for i in range(first, first + 100)) + b"\r\n")
                    stream.flush()
                    for i in range(first, first + 100):
                        head = stream.readline()
                        if head != b"VALUE k%d 0 %d\r\n" % (i, size):
                            check(False, f"{name}: value {i}", head)
                            return
                        wrong += stream.read(size + 2) != value(i, size) + b"\r\n"
                    check(stream.readline() == b"END\r\n", f"{name}: end of values")
                check(wrong == 0, f"{name}: {wrong} wrong values")
                stream.write(b"incr missing 1\r\nset n 0 0 2\r\n41\r\nincr n 1\r\ndelete k0\r\nget k0\r\n")
                stream.flush()
                answers = [stream.readline() for _ in range(5)]
                check(answers == [b"NOT_FOUND\r\n", b"STORED\r\n", b"42\r\n", b"DELETED\r\n", b"END\r\n"], f"{name}: answers",
                      answers)
        path.unlink(missing_ok=True)


# --- nginx and curl ------------------------------------------------------------------------------------------------------

NGINX = """
daemon off;
worker_processes 2;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
user root;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  gzip on; gzip_types text/plain; gzip_min_length 1; sendfile off; output_buffers 4 1m;
  server {{
    listen unix:{root}/plain.sock;
    root {root}/files; default_type text/plain;
    location /proxied/ {{ proxy_pass http://unix:{root}/plain.sock:/; proxy_buffering on; proxy_buffers 64 256k;
      proxy_max_temp_file_size 0; }}
  }}
  server {{
    listen unix:{root}/tls.sock ssl;
    ssl_certificate {root}/certificate.pem; ssl_certificate_key {root}/key.pem;
    root {root}/files;
  }}
}}
"""


def nginx(directory):
    root = directory / "nginx"
    files = root / "files"
    files.mkdir(parents=True)
    generator = random.Random(9)
    for index in range(30):
        (files / f"{index}.txt").write_bytes(generator.randbytes(1 + index * 9000).hex().encode())
    (files / "large.txt").write_bytes(generator.randbytes(5 << 20).hex().encode())
    (root / "nginx.conf").write_text(NGINX.format(root=root))
    subprocess.run([find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", root / "key.pem", "-out", root / "certificate.pem", "-subj", "/CN=water.test", "-days", "2",
                    "-addext", "subjectAltName=DNS:water.test"], check=True, stderr=subprocess.DEVNULL)
    command = [find("nginx"), "-p", root, "-e", root / "error.log", "-c", root / "nginx.conf"]
    names = [f"{index}.txt" for index in range(30)] + ["large.txt"]
    expected = "".join(f"{hashlib.sha256((files / name).read_bytes()).hexdigest()}\n" for name in names)
    fetch = {
        "plain": (root / "plain.sock", "http://water.test/"),
        "compressed": (root / "plain.sock", "http://water.test/", "--compressed"),
        "proxied": (root / "plain.sock", "http://water.test/proxied/"),
        "tls": (root / "tls.sock", "https://water.test/", "--cacert", root / "certificate.pem", "--parallel"),
    }
    for memory in (*WAYS, "8M"):
        name = f"nginx [{memory or 'no limit'}]"
        # The master hands its work to two workers; it pages no more than it allocates, and that is little.
        with matrix.server(directory, "nginx", command, memory, lambda: listens(root / "plain.sock"),
                           end_with=matrix.signal.SIGQUIT) as server:
            if server is None:
                continue
            check(cleanup.wait_for(lambda: len(server.processes()) == 3, 10), f"{name}: two workers", server.log())
            for kind, (path, address, *options) in fetch.items():
                output = directory / "fetched"
                output.mkdir()
                # curl with the library too; parallel TLS would just reach nginx's smallest limit.
                limit = memory and matrix.ROOMY
                words = [*matrix.polder_run(limit, directory / "curl.json"), find("curl"), "-sS", "--no-progress-meter",
                         "--fail", "--unix-socket", path, *options, "--output-dir", output, "--remote-name-all", *(address + each for each in names)]
                client(words)
                report = matrix.read_stats(directory / "curl.json")
                matrix.check_stats(f"curl, {kind} [{limit or 'no limit'}]", report, limit, False)
                got = "".join(f"{hashlib.sha256((output / each).read_bytes()).hexdigest()}\n" if (output / each).exists()
                              else "missing\n" for each in names)
                check(got == expected, f"{name}: {kind}: other bytes than in the files", got)
                matrix.shutil.rmtree(output)
            os.kill(server.pid(), matrix.signal.SIGHUP)  # new workers take over
            client([find("curl"), "-sS", "--fail", "--unix-socket", root / "plain.sock", "http://water.test/0.txt"])
        check((root / "error.log").read_text() == "", f"{name}: its log", (root / "error.log").read_text())
        (root / "plain.sock").unlink(missing_ok=True)
        (root / "tls.sock").unlink(missing_ok=True)


with matrix.session() as scratch:
    redis(scratch)
    memcached(scratch)
    nginx(scratch)
matrix.finish()
