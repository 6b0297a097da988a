"""sort of 500 MB within its own memory, under 64 MiB. Its directory for temporary files does not exist: it may not
help itself with any."""

import os
import random
import shutil

import under_limit

SIZE = 500_000_000
LINE = 4000  # bytes with the newline; the key is at the start


def write_lines(path):
    """Lines of a random key and a random stretch of one random text."""
    generator = random.Random(7)
    text = generator.randbytes(2 << 20).hex().encode()
    rest = LINE - 17
    with open(path, "wb", buffering=1 << 20) as file:
        for _ in range(SIZE // LINE):
            begin = generator.randrange(len(text) - rest)
            file.write(b"%016x" % generator.getrandbits(64))
            file.write(text[begin:begin + rest])
            file.write(b"\n")


with under_limit.scratch() as directory:
    lines = directory / "lines"
    write_lines(lines)
    under_limit.expect(os.stat(lines).st_size == SIZE, "the input is not 500 MB")
    command = [shutil.which("sort"), "-S", "700M", "--parallel=2", "-T", directory / "none", lines]
    environment = {"LC_ALL": "C"}
    bare = under_limit.plain(command, environment=environment)
    under_limit.expect(bare.status == 0, "sort fails without a limit")
    outcome = under_limit.limited(command, environment=environment)
    under_limit.expect(outcome.status == 0 and outcome.digest == bare.digest, "another output under the limit")
    under_limit.describe("sort", outcome, bare)
