"""Everyday programs do under the library what they do without it."""

import os
import shutil
import tempfile

from harness import CONFIGURATIONS, SOURCE, check, describe, finish, run

PYTHON = shutil.which("python3", path="/usr/bin:/bin") or shutil.which("python3")

COMMANDS = [
    ["ls", "-la", "/usr/bin"],
    ["bash", "-c", "for i in {1..50}; do x=$(echo $i | tr 0-9 a-j); done; echo $x; echo a b c | wc -w"],
    ["sh", "-c", "sort /etc/services | uniq -c | awk '{s += $1} END {print s}'"],
    [PYTHON, "-c", "import json, hashlib, re\nprint(hashlib.sha256(json.dumps([str(i) * 9 for i in range(100000)])"
                   ".encode()).hexdigest())"],
    [PYTHON, "-c", "import subprocess, threading\n"
                   "t = [threading.Thread(target=lambda: [bytes(9999) for _ in range(999)]) for _ in range(8)]\n"
                   "[x.start() for x in t]; [x.join() for x in t]\n"
                   "print(subprocess.run(['echo', 'child'], capture_output=True).stdout)"],
    [PYTHON, "-c", "import multiprocessing as m\nwith m.get_context('fork').Pool(3) as p:\n"
                   " print(sum(p.map(abs, range(-500, 500))))"],
    ["perl", "-e", "my %h; $h{$_} = 'x' x ($_ % 500) for 1..100000; my $n = 0; $n += length for values %h; print $n, \"\\n\""],
    ["git", "--version"],
    ["awk", "BEGIN {for (i = 0; i < 200000; i++) a[i] = i \"text\"; n = 0; for (k in a) n += length(a[k]); print n}"],
    ["sed", "-e", "s/a/b/g", "/etc/services"],
    ["tar", "-cf", "-", "--sort=name", "--mtime=@0", "-C", os.path.join(SOURCE, "runtime"), "."],
    ["gzip", "-9c", os.path.join(SOURCE, "src", "README.md")],
    ["cc", "-x", "c", "-O2", "-S", "-o", "-", os.path.join(SOURCE, "tests", "abi", "plugin", "host.c")],
    ["id"],  # name service switch
    ["getent", "services", "http"],
]

with tempfile.TemporaryDirectory() as folder:
    for command in COMMANDS:
        if shutil.which(command[0]) is None:
            continue
        settings = {"LC_ALL": "C", "PYTHONMALLOC": "malloc", "HOME": folder}
        native = run(command, preload=False, **settings)
        for configuration in CONFIGURATIONS:
            ours = run(command, configuration, **settings)
            what = f"{' '.join(command)[:60]!r} [{configuration}]"
            check(ours.returncode == native.returncode, f"{what}: status", describe(ours) + "\n" + ours.stderr)
            check(ours.stdout == native.stdout, f"{what}: output", ours.stdout[:300])
            check(ours.stderr == native.stderr, f"{what}: errors", ours.stderr[:2000])
finish()
