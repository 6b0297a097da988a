"""scripts/bench micro: Google Benchmark programs on this malloc and on a baseline, in turn."""

import collections
import json
import sys

from cleanup import run
import build
import report

NAME = "micro"
HELP = "malloc/free microbenchmarks against jemalloc, both preloaded"


def add_arguments(parser):
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side, interleaved (5)")
    parser.add_argument("--min-time", type=float, default=0.1, help="seconds per benchmark and run (0.1)")
    parser.add_argument("--baseline", default="libjemalloc.so.2", help="library to compare with (libjemalloc.so.2)")
    parser.add_argument("--filter", default=".", help="regular expression of benchmark names")
    parser.add_argument("--bar", type=float, default=1.2, help="fail when the geometric mean ratio is above (1.2)")


def _measure(program, library, arguments):
    command = [program, f"--benchmark_min_time={arguments.min_time}", f"--benchmark_filter={arguments.filter}",
               "--benchmark_format=json"]
    status, output = run(command, 600, env=build.plain_environment(LD_PRELOAD=str(library)))
    if status != 0:
        sys.exit(f"{program} under {library} ended with status {status}")
    results = {}
    for entry in json.loads(output)["benchmarks"]:
        wall = "real_time" in entry["name"]
        results[entry["name"]] = entry["real_time" if wall else "cpu_time"]
    return results


def main(arguments):
    built = build.release(arguments.build_dir)
    program = built.program("bench", "micro", "malloc_bench")
    baseline = arguments.baseline.split("/")[-1].removeprefix("lib").split(".so")[0]
    sides = {baseline: arguments.baseline, "polder": built.library}
    status, output = run(["env", "cat", "/proc/self/maps"], 30,
                         env=build.plain_environment(LD_PRELOAD=arguments.baseline))
    if status != 0 or arguments.baseline.split("/")[-1].split(".so")[0] not in output:
        sys.exit(f"{arguments.baseline} cannot be preloaded; install libjemalloc2 (scripts/install-deps)")
    if not built.library.exists():
        sys.exit(f"{built.library} is not built")

    description = report.machine()
    samples = {side: collections.defaultdict(list) for side in sides}
    for number in range(arguments.rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for side in order:
            print(f"round {number + 1}/{arguments.rounds}: {side}", file=sys.stderr, flush=True)
            for name, value in _measure(program, sides[side], arguments).items():
                samples[side][name].append(value)

    rows, ratios = [], []
    for name in samples["polder"]:
        base, ours = (report.median(samples[side][name]) for side in (baseline, "polder"))
        ratios.append(ours / base)
        rows.append((name, f"{base:.1f}", f"{ours:.1f}", f"{ours / base:.2f}"))
    mean = report.geometric_mean(ratios)
    rows.append(("geometric mean", "", "", f"{mean:.2f}"))
    print(report.table(rows, ("benchmark", f"{baseline} ns", "polder ns", "ratio")))
    path = report.write_csv("micro", [*description, ("rounds", arguments.rounds)],
                            ("benchmark", f"{baseline}_ns", "polder_ns", "ratio"), rows)
    print(f"\nmedians of {arguments.rounds} interleaved rounds, lower is better; kept in {path}")
    if mean > arguments.bar:
        print(f"FAIL: {mean:.2f} times {baseline}; the bar is {arguments.bar}")
        return 1
    print(f"OK: {mean:.2f} times {baseline}; the bar is {arguments.bar}")
    return 0
