"""gcc on a large function, whose analyses take several hundred MB of malloc, under 64 MiB: the same object file."""

import random
import shutil
import subprocess

import under_limit

BLOCKS = 900


def write_source(path):
    generator = random.Random(20)
    pick = generator.randrange
    lines = ["extern int sink(int);", "extern unsigned table[];",
             "unsigned f(unsigned a, unsigned b, unsigned *p) {", "  unsigned s = 17, t = b;"]
    for block in range(BLOCKS):
        lines.append(f"  if ((a ^ {pick(1 << 16)}u) > t + {block}) {{ s += p[{pick(64)}] * {pick(1 << 16)}u; "
                     f"t ^= s >> {pick(1, 31)}; }} else {{ a -= table[(s + t) & {pick(1, 1024)}]; "
                     f"while (a & {1 << pick(20)}) a = a * 5 + (unsigned)sink((int)t); }}")
    lines += ["  return s ^ t ^ a;", "}", ""]
    path.write_text("\n".join(lines))


gcc = shutil.which("gcc")
if gcc is None:
    print("gcc is not installed")
    raise SystemExit(77)
with under_limit.scratch() as directory:
    source = directory / "large.c"
    write_source(source)

    # The driver and the programs it starts, as anybody would run it.
    def compile_to(name):
        return [gcc, "-O2", "-c", source, "-o", directory / name]

    bare = under_limit.plain(compile_to("plain.o"))
    under_limit.expect(bare.status == 0, "gcc fails without a limit")
    outcome = under_limit.limited(compile_to("limited.o"), wants_paging=False)
    under_limit.expect((directory / "plain.o").read_bytes() == (directory / "limited.o").read_bytes(),
                       "another object file under the limit")
    under_limit.describe("gcc", outcome, bare)

    # The compiler proper alone, because the report is about one process.
    compiler = subprocess.run([gcc, "-print-prog-name=cc1"], capture_output=True, text=True, check=True).stdout.strip()

    def assemble_to(name):
        return [compiler, "-quiet", "-O1", source, "-o", directory / name]

    bare = under_limit.plain(assemble_to("plain.s"))
    under_limit.expect(bare.status == 0, "cc1 fails without a limit")
    outcome = under_limit.limited(assemble_to("limited.s"))
    under_limit.expect((directory / "plain.s").read_bytes() == (directory / "limited.s").read_bytes(),
                       "another assembly under the limit")
    under_limit.describe("cc1", outcome, bare)
