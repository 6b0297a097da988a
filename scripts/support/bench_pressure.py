"""scripts/bench pressure: reads from a heap of twice the limit, against the kernel's swap on the same disk."""

import collections
import sys

from cleanup import run
import build
import kernel_swap
import report

NAME = "pressure"
HELP = "object reads at twice the limit against a memory cgroup with the kernel's swap"
FIELDS = ("reads_per_s", "p50_us", "p99_us", "p999_us", "max_us", "reads")


def add_arguments(parser):
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, interleaved (3)")
    parser.add_argument("--seconds", type=int, default=10, help="measured seconds per access pattern (10)")
    parser.add_argument("--warm-up", type=int, default=3, help="seconds before each measurement (3)")
    parser.add_argument("--memory", default="512M", help="limit on both sides (512M)")
    parser.add_argument("--bytes", default="1G", help="bytes of objects (1G)")
    parser.add_argument("--patterns", default="uniform,zipf,sequential")
    parser.add_argument("--swap-dir", default="/var/tmp", help="directory of both swap files (/var/tmp)")
    parser.add_argument("--only", choices=("kernel", "polder"), help="measure one side alone, compare nothing")
    parser.add_argument("--bar", type=float, default=1.0,
                        help="fail when the uniform or zipf ratio is below (1.0)")


def _parse(output):
    return {words[0]: dict(zip(FIELDS, map(float, words[1:])))
            for words in map(str.split, output.splitlines()) if len(words) == 1 + len(FIELDS)}


def main(arguments):
    built = build.release(arguments.build_dir)
    program = [str(built.program("bench", "pressure")), "--bytes", arguments.bytes,
               "--seconds", str(arguments.seconds), "--warm-up", str(arguments.warm_up),
               "--patterns", arguments.patterns]
    limit, size = report.parse_size(arguments.memory), report.parse_size(arguments.bytes)
    environment = build.plain_environment()

    def with_polder(_number):
        command = built.run(arguments.memory, "--swap-dir", arguments.swap_dir) + program
        return run(command, 900, env=environment)

    def with_kernel(_number):
        with kernel_swap.limited(limit, arguments.swap_dir, 2 * size) as cgroup:
            return run(program, 900, env=environment, preexec_fn=cgroup.enter)

    sides = {"kernel": with_kernel, "polder": with_polder}
    if arguments.only:
        sides = {arguments.only: sides[arguments.only]}
    description = report.machine(arguments.swap_dir)
    samples = {side: collections.defaultdict(list) for side in sides}
    for number in range(arguments.rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for side in order:
            print(f"round {number + 1}/{arguments.rounds}: {side}", file=sys.stderr, flush=True)
            try:
                status, output = sides[side](number)
            except kernel_swap.Unavailable as reason:
                print(f"this machine does not allow the comparison: {reason}")
                return 77
            if status != 0:
                print(f"FAIL: the program ended with status {status} on the {side} side")
                return 1
            for pattern, values in _parse(output).items():
                samples[side][pattern].append(values)

    rows, ratios = [], {}
    for pattern in arguments.patterns.split(","):
        medians = {side: {field: report.median([run_[field] for run_ in samples[side][pattern]])
                          for field in FIELDS} for side in sides}
        if len(sides) == 2:
            ratios[pattern] = medians["polder"]["reads_per_s"] / medians["kernel"]["reads_per_s"]
        for side in sides:
            m = medians[side]
            rows.append((pattern, side, f"{m['reads_per_s']:.0f}", f"{m['p50_us']:.1f}", f"{m['p99_us']:.1f}",
                         f"{m['p999_us']:.1f}",
                         f"{ratios[pattern]:.2f}" if side == "polder" and ratios else ""))
    header = ("pattern", "side", "reads/s", "p50 us", "p99 us", "p99.9 us", "ratio")
    print(report.table(rows, header, right=range(2, 7)))
    settings = [("limit", arguments.memory), ("objects", f"{arguments.bytes} in 512 B objects"),
                ("rounds", arguments.rounds), ("seconds", arguments.seconds)]
    path = report.write_csv("pressure", [*description, *settings], header, rows)
    print(f"\nmedians of {arguments.rounds} interleaved rounds; kept in {path}")
    slow = [pattern for pattern in ("uniform", "zipf") if ratios.get(pattern, arguments.bar) < arguments.bar]
    if slow:
        print(f"FAIL: below {arguments.bar} times the kernel's swap: {', '.join(slow)}")
        return 1
    if ratios:
        print(f"OK: uniform and zipf at least {arguments.bar} times the kernel's swap")
    return 0
