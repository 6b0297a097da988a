"""git on this repository: clone, gc, fsck, every object and every patch as without the library; a large pack paging."""

import random
import subprocess

import matrix
from matrix import SOURCE, check, compare, find

GIT = find("git")
IDENTITY = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_DATE": "1700000000 +0000",
            "GIT_COMMITTER_DATE": "1700000000 +0000"}


def configure(directory):
    """In a file: what stands in variables does not reach the other end of a clone, which checks the owner too."""
    path = directory / "gitconfig"
    path.write_text("[safe]\n\tdirectory = *\n[user]\n\tname = nobody\n\temail = nobody@localhost\n")
    IDENTITY["GIT_CONFIG_GLOBAL"] = str(path)


def git(directory, *words):
    subprocess.run([GIT, "-C", directory, *words], env={**matrix.harness.environment(preload=False), **IDENTITY},
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def this_repository(directory):
    """A bare clone of the repository this file is in, or, from a source archive, a repository of its files."""
    target = directory / "origin.git"
    known = subprocess.run([GIT, "-C", SOURCE, "rev-parse", "HEAD"], env={**matrix.harness.environment(preload=False),
                           **IDENTITY}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if known.returncode == 0:
        git(directory, "clone", "--quiet", "--bare", "--no-local", SOURCE, target)
    else:
        copy = directory / "copy"
        subprocess.run(["cp", "-r", "--", SOURCE, copy], check=True)
        git(copy, "init", "--quiet")
        git(copy, "add", "-A", "src", "tests", "runtime", "scripts")
        git(copy, "commit", "--quiet", "-m", "everything")
        git(directory, "clone", "--quiet", "--bare", copy, target)
    return target


def large_history(directory):
    """Versions of a few files of several MiB, which a pack deltifies against each other."""
    target, generator = directory / "large.git", random.Random(5)
    git(directory, "init", "--quiet", "--bare", target)
    files = [bytearray(generator.randbytes(1 << 20).hex().encode()) for _ in range(3)]
    stream = bytearray()
    for version in range(6):
        stream += b"commit refs/heads/main\ncommitter n <n@l> %d +0000\ndata 1\nx\n" % (1700000000 + version)
        for index, file in enumerate(files):
            for _ in range(300):
                at = generator.randrange(len(file) - 80)
                file[at:at + 60] = generator.randbytes(30).hex().encode()
            stream += b"M 100644 inline %d\ndata %d\n" % (index, len(file)) + file + b"\n"
    subprocess.run([GIT, "-C", target, "fast-import", "--quiet"], input=bytes(stream), check=True,
                   env={**matrix.harness.environment(preload=False), **IDENTITY})
    return target


# What a clone holds, whichever way its packs came out.
CONTENTS = """
git rev-parse --all
git rev-list --objects --all | sort | sha256sum
git cat-file --batch --batch-all-objects --unordered | wc -c
git log --all --patch --stat --format=fuller | sha256sum
"""

with matrix.session() as scratch:
    configure(scratch)
    origin = this_repository(scratch)
    script = f"set -e\ngit clone --quiet --no-local '{origin}' clone\ncd clone\ngit fsck --full --strict\n" \
             f"git gc --quiet --prune=now\ngit fsck --full\n{CONTENTS}git grep -c polder | sha256sum\n" \
             f"git checkout --quiet -b other HEAD && git status --short && git blame README.md | sha256sum\n" \
             f"cd ..; rm -r clone\n"
    result = compare(scratch, "clone, gc, fsck", [find("sh"), "-c", script], witnesses=("git",), **IDENTITY)
    check(b"error" not in result.stderr + result.stdout, "fsck is clean", result.text())

    large = large_history(scratch)
    pack = ["-c", "pack.threads=1", "-c", "core.bigFileThreshold=64m", "pack-objects", "--quiet", "--all", "--stdout",
            "--no-reuse-delta", "--window=6", "-q"]
    compare(scratch, "pack-objects", [GIT, "-C", large, *pack], tight="16M", **IDENTITY)
matrix.finish()
