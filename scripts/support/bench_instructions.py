"""scripts/bench instructions: what malloc(64) and free cost on every allocator, counted by callgrind."""

import re
import shutil
import sys

from cleanup import run
import allocators
import build
import report

NAME = "instructions"
HELP = "instructions of malloc(64)+free, the loop's ten included, on every allocator"

# The most that a pair may take here: what it took when this was last lowered, by g++ 12 (jemalloc 79.6, tcmalloc 79.0).
# Lower it when the fast path gets shorter.
CEILING = 55.0

_FEW, _MANY = 10_000, 110_000


def add_arguments(parser):
    parser.add_argument("--allocators", metavar="LIST", help="only these, separated by commas")


def _count(program, loops, environment):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1", program, str(loops)]
    status, output = run(command, 300, env=environment)
    match = re.search(r"Collected\s*:\s*(\d+)", output)
    return int(match.group(1)) if status == 0 and match else None


def _per_pair(program, environment):
    """The difference of two runs: start-up, and what happens once, are in both. None when valgrind cannot run it."""
    few, many = (_count(program, loops, environment) for loops in (_FEW, _MANY))
    return None if few is None or many is None else (many - few) / (_MANY - _FEW)


def main(arguments):
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed; `scripts/install-deps bench` does it")
    built = build.release(arguments.build_dir)
    program = built.program("bench", "malloc", "malloc_loop")
    description = report.machine()
    counts = {}
    for allocator in allocators.choose(built.library, arguments.allocators):
        print(f"counting: {allocator.name}", file=sys.stderr, flush=True)
        counts[allocator.name] = _per_pair(program, allocator.environment())
    rows = [(name, "-" if count is None else f"{count:.1f}") for name, count in counts.items()]
    header = ("allocator", "instructions")
    print(report.table(rows, header))
    path = report.write_csv("instructions", [*description, ("ceiling", CEILING)], header, rows)
    print(f"\nof malloc(64), one byte written, free; kept in {path}")
    if allocators.OURS not in counts:
        return 0
    ours = counts[allocators.OURS]
    if ours is None:
        print(f"FAIL: {allocators.OURS} does not run under valgrind")
        return 1
    best = min(count for count in counts.values() if count is not None)
    if round(ours, 1) > CEILING:
        print(f"FAIL: {ours:.1f} instructions; the ceiling is {CEILING:.1f}")
        return 1
    if ours > best:
        print(f"FAIL: {ours:.1f} instructions; the best of the others has {best:.1f}")
        return 1
    print(f"OK: {ours:.1f} instructions; the ceiling is {CEILING:.1f}")
    return 0
