"""PostgreSQL and SQLite: initdb, pgbench, queries and recovery with the library in every process, some of them paging.

postgres refuses to run as root. An unprivileged user may use userfaultfd only with CAP_SYS_PTRACE, which it gets as an
ambient capability; without it the limit cannot be kept by paging, which is tested too.
"""

import os
import pathlib
import pwd
import shutil
import signal
import subprocess

import matrix
from matrix import check, client, compare, find

SQL = """
CREATE TABLE rows(id INTEGER PRIMARY KEY, key TEXT, data TEXT);
INSERT INTO rows SELECT value, hex(sha3(value, 256)), replace(hex(zeroblob(4)), '00', hex(sha3(value, 256)))
    FROM generate_series(1, 60000);
CREATE INDEX by_key ON rows(key);
UPDATE rows SET data = data || id WHERE id % 64 = 3;
DELETE FROM rows WHERE id BETWEEN 5000 AND 6000;
SELECT count(*), sum(length(data)) FROM rows;
WITH RECURSIVE walk(n, k) AS (SELECT 1, (SELECT min(key) FROM rows) UNION ALL
    SELECT n + 1, (SELECT min(key) FROM rows WHERE key > k) FROM walk WHERE n < 5000) SELECT max(n), max(k) FROM walk;
SELECT data FROM rows ORDER BY substr(data, 7) LIMIT 3;
PRAGMA integrity_check;
.sha3sum
"""

QUERIES = """
SET work_mem = '512MB'; SET hash_mem_multiplier = 8; SET max_parallel_workers_per_gather = 0; SET jit = off;
SELECT md5(string_agg(m, '' ORDER BY m DESC)) FROM (SELECT md5(i::text) || repeat('x', 200) AS m
    FROM generate_series(1, 60000) AS i) AS t;
SELECT count(*), sum(a.aid) FROM pgbench_accounts AS a JOIN (SELECT aid, md5(aid::text) AS m FROM pgbench_accounts) AS b
    ON md5(a.aid::text) = b.m;
SELECT count(*) FROM (SELECT DISTINCT md5(i::text) || repeat('y', 150) FROM generate_series(1, 100000) AS i) AS t;
"""

BALANCES = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
   AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
   AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)
   AND (SELECT count(*) FROM pgbench_history) = %d;
"""


def sqlite(scratch):
    script = scratch / "script.sql"
    script.write_text("PRAGMA journal_mode = WAL;\nPRAGMA cache_size = -200000;\n" + SQL)
    result = compare(scratch, "sqlite", [find("sqlite3"), "base.db"], stdin=script, tight="12M", hardened=True)
    check(b"\nok\n" in result.stdout, "sqlite: integrity", result.text())


class Postgres:
    """A data directory, and the library and the command where their user can read them."""

    def __init__(self, scratch):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            find("postgres")
        self.bin = found[-1].parent
        self.user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.home = scratch / "postgres"
        (self.home / "tree" / "bin").mkdir(parents=True)
        (self.home / "tree" / "lib").mkdir()
        self.polder = self.home / "tree" / "bin" / "polder"
        self.library = self.home / "tree" / "lib" / "libpolder.so"
        shutil.copy(matrix.POLDER, self.polder)
        shutil.copy(matrix.LIBRARY, self.library)
        for path in (self.home, self.home / "tree"):
            shutil.chown(path, self.user.pw_uid, self.user.pw_gid)
        self.data = self.home / "data"
        self.settings = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home)}

    def as_user(self, capability):
        """The words before a command that make it the unprivileged user's."""
        if os.geteuid() != 0:
            return []
        granted = ["--inh-caps", "+sys_ptrace", "--ambient-caps", "+sys_ptrace"] if capability else []
        return [find("setpriv"), "--reuid", str(self.user.pw_uid), "--regid", str(self.user.pw_gid), "--clear-groups",
                *granted, "--"]

    def run(self, command, capability=False, **options):
        variables = matrix.harness.environment(preload=False, LC_ALL="C", **self.settings)
        status, output = matrix.cleanup.run([*self.as_user(capability), *command], 90, cwd=self.home, env=variables,
                                            stderr=subprocess.STDOUT, **options)
        return status, output

    def polder_run(self, command, memory, capability=False, **options):
        stats = self.home / "stats.json"
        status, output = self.run([*matrix.polder_run(memory, stats, self.polder), *command], capability, **options)
        return status, output, matrix.read_stats(stats)

    def init(self):
        what = "initdb [no limit]"
        status, output, stats = self.polder_run([self.bin / "initdb", "-D", self.data, "-U", "water", "-A", "trust", "-E",
                                                 "UTF8", "--locale", "C", "--no-sync"], None)
        check(status == 0 and "Success." in output and "polder:" not in output, what, output[-1500:])
        matrix.check_stats(what, stats, None, False)

    def sql(self, text):
        return client([self.bin / "psql", "-h", self.home, "-U", "water", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qAt",
                       "-c", text])

    def serve(self, memory, **options):
        command = [self.bin / "postgres", "-D", self.data, "-k", self.home, "-c", "listen_addresses=", "-c", "fsync=off",
                   "-c", "shared_buffers=32MB", "-c", "autovacuum_naptime=1"]

        def ready():
            return subprocess.run([self.bin / "pg_isready", "-q", "-h", self.home], check=False).returncode == 0

        return matrix.server(self.home, "postgres", command, memory, ready, wrapper=self.as_user(True),
                             library_command=self.polder, end_with=signal.SIGINT, **self.settings, **options)


def pgbench(postgres, memory):
    """The bench's own transactions by several clients, then sums that must agree and queries with known answers."""
    name = f"postgres [{memory or 'no limit'}]"
    with postgres.serve(memory) as server:
        if server is None:
            return None
        tools = ["-h", postgres.home, "-U", "water", "postgres"]
        client([postgres.bin / "pgbench", "-i", "-q", "-s", "1", *tools], stderr=subprocess.DEVNULL)
        output = client([postgres.bin / "pgbench", "-c", "4", "-j", "2", "-t", "150", "--random-seed=7", *tools],
                        stderr=subprocess.DEVNULL) or ""
        check("number of transactions actually processed: 600/600" in output and
              "number of failed transactions: 0 (0.000%)" in output, f"{name}: pgbench", output)
        check(postgres.sql(BALANCES % 600) == "t\n", f"{name}: balances agree")
        # The backend that answers, seen from outside while its client still holds the connection.
        shown = client([postgres.bin / "psql", "-h", postgres.home, "-U", "water", "-d", "postgres", "-qAt", "-f", "-"],
                       stdin=_file(postgres.home / "queries.sql", QUERIES + "\\setenv SEEN 1\nSELECT pg_backend_pid() AS "
                                   "pid \\gset\n\\setenv BACKEND :pid\n\\! grep -c libpolder.so /proc/$BACKEND/maps "
                                   "| sed 's/^[1-9].*/library/'\n\\! cat /proc/$BACKEND/task/*/comm | grep -c "
                                   "polder-pager\n")) or ""
        lines = shown.splitlines()
        check(lines[-2:-1] == ["library"], f"{name}: the backend is without the library", shown)
        pagers = {"64M": "1", "32M": "1"}.get(memory, "0")
        check(lines[-1:] == [pagers], f"{name}: a pager in the backend where it is needed, and only there", shown)
        return lines[:-2]


def _file(path, text):
    path.write_text(text)
    return open(path, "rb")


def crash_and_recover(postgres, memory):
    with postgres.serve(memory) as server:
        if server is None:
            return
        postgres.sql("CREATE TABLE kept AS SELECT i, md5(i::text) AS m FROM generate_series(1, 5000) AS i;")
        checkpointer = int(postgres.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"))
        os.kill(checkpointer, signal.SIGKILL)  # the server restarts itself from its log
        matrix.cleanup.wait_for(lambda: not os.path.exists(f"/proc/{checkpointer}"), 20)
        kept = "SELECT count(*), md5(string_agg(m, '' ORDER BY i)) FROM kept"
        wanted = "SELECT 5000, md5(string_agg(md5(i::text), '' ORDER BY i)) FROM generate_series(1, 5000) AS i"
        matrix.cleanup.wait_for(lambda: subprocess.run(
            [postgres.bin / "psql", "-h", postgres.home, "-U", "water", "-d", "postgres", "-qAtc", "SELECT 1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0, 20)
        check(postgres.sql(kept) == postgres.sql(wanted), f"postgres [{memory or 'no limit'}]: recovery")


def single_user(postgres):
    """One process of the database, whose own report shows that it paged; its answers as without the library."""
    script = postgres.home / "single.sql"
    script.write_text(" ".join(QUERIES.split("\n")[1].split()) + "\n" +
                      "".join(" ".join(each.split()) + "\n" for each in QUERIES.split(";")[4:]))
    command = [postgres.bin / "postgres", "--single", "-D", postgres.data, "postgres"]

    def answers(output):
        return [line for line in output.splitlines() if " = " in line]

    with open(script, "rb") as source:
        status, output = postgres.run(command, stdin=source)
    known = answers(output)
    check(status == 0 and len(known) >= 4, "postgres --single without the library", output[-1500:])
    for memory, tight in ((None, False), (matrix.ROOMY, False), ("24M", True)):
        what = f"postgres --single [{memory or 'no limit'}]"
        with open(script, "rb") as source:
            status, output, stats = postgres.polder_run(command, memory, capability=True, stdin=source)
        check(status == 0 and answers(output) == known and "polder:" not in output, what, f"{status}\n{output[-1500:]}")
        matrix.check_stats(what, stats, memory, tight)


def without_privilege(postgres):
    """The user who may not page: nothing is promised by the command, and the library works up to the limit and says so."""
    if os.geteuid() != 0 or pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "1":
        return
    status, output, _ = postgres.polder_run(["/bin/true"], "64M")
    check(status == 2 and "no permission to use userfaultfd" in output, "a limit without privilege is refused", output)
    preload = ["/usr/bin/env", f"LD_PRELOAD={postgres.library}", "POLDER_CONF=memory:64M"]
    small = [*preload, "/usr/bin/python3", "-c", "print(len([bytes(1000) for _ in range(9000)]))"]
    status, output = postgres.run(small)
    check((status, output) == (0, "9000\n"), "below the limit the library works without privilege", output)
    large = [*preload, "/usr/bin/python3", "-c", "x = []\ntry:\n  while len(x) < 200: x.append(bytes([7]) * (1 << 20))\n"
             "except MemoryError: print('no memory', len(x) < 70)"]
    status, output = postgres.run(large)
    check(status == 0 and "no memory True" in output and "does not allow paging here" in output,
          "beyond the limit allocations fail, and the reason is given", output)


with matrix.session() as scratch:
    sqlite(scratch)
    postgres = Postgres(scratch)
    postgres.init()
    answers = None
    for memory in (matrix.UNLIMITED, matrix.ROOMY, "32M"):
        found = pgbench(postgres, memory)
        check(answers is None or found == answers, f"postgres [{memory or 'no limit'}]: answers", f"{answers}\n{found}")
        answers = answers or found
    crash_and_recover(postgres, matrix.UNLIMITED)
    single_user(postgres)
    without_privilege(postgres)
matrix.finish()
