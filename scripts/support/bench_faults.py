"""scripts/bench faults: what a fault costs by where the page was, beside the kernel's own and a read of the disk."""

import json
import sys

from cleanup import run
import build
import report

NAME = "faults"
HELP = "what a fault costs: untouched, staged and stored pages, a native fault, a direct read of the disk"

HEADER = ("page", "p50_us", "p99_us", "fastest_p50_us", "slowest_p50_us")


def add_arguments(parser):
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each, interleaved at random (5)")
    parser.add_argument("--bar-touch", type=float, default=1.03,
                        help="first touch of 1 GiB under a limit to the kernel's own (1.03)")
    parser.add_argument("--bar-staged", type=float, default=12.0, help="p50 of a staged page in µs (12)")
    parser.add_argument("--bar-stored", type=float, default=15.0, help="p50 of a stored page above the disk's, in µs (15)")


def _repetitions(program, pattern, rounds, value_of):
    """What the benchmarks that match gave, by name."""
    command = [program, f"--benchmark_filter={pattern}", f"--benchmark_repetitions={rounds}",
               "--benchmark_enable_random_interleaving=true", "--benchmark_format=json"]
    status, output = run(command, 900, env=build.plain_environment())
    if status == 77:
        sys.exit(status)  # said by the program
    if status != 0:
        sys.exit(f"{program} ended with status {status}")
    samples = {}
    for entry in json.loads(output)["benchmarks"]:
        if entry.get("error_occurred"):
            sys.exit(f"{entry['name']}: {entry['error_message']}")
        if entry["run_type"] == "iteration":
            samples.setdefault(entry["run_name"].split("/")[0], []).append(value_of(entry))
    return samples


def main(arguments):
    program = build.release(arguments.build_dir).program("bench", "faults")
    description = report.machine()
    samples = _repetitions(program, "-gib_", arguments.rounds, lambda entry: (entry["p50_us"], entry["p99_us"]))
    # Single ones differ by a fifth: the median of more.
    gib = _repetitions(program, "gib_", 3 * arguments.rounds, lambda entry: entry["real_time"])

    rows, p50 = [], {}
    for name, of_name in samples.items():
        halves = [half for half, _ in of_name]
        p50[name] = report.median(halves)
        rows.append((name, f"{p50[name]:.1f}", f"{report.median([tail for _, tail in of_name]):.1f}",
                     f"{min(halves):.1f}", f"{max(halves):.1f}"))
    print(report.table(rows, HEADER))
    touched = {name: report.median(of_name) for name, of_name in gib.items()}
    touch = touched["gib_limited"] / touched["gib_native"]
    print("\nfirst touch of 1 GiB: " + ", ".join(f"{name[4:]} {value:.0f} ms" for name, value in touched.items()))
    settings = [("rounds", arguments.rounds), *((name, f"{value:.1f} ms") for name, value in touched.items())]
    path = report.write_csv("faults", [*description, *settings], HEADER, rows)
    print(f"\nmedians of {arguments.rounds} interleaved rounds; kept in {path}")
    above = p50["stored"] - p50["raw_read"]
    broken = []
    if p50["staged"] > arguments.bar_staged:
        broken.append(f"a staged page takes {p50['staged']:.1f} µs; the bar is {arguments.bar_staged:.1f}")
    if above > arguments.bar_stored:
        broken.append(f"a stored page takes {above:.1f} µs more than the disk; the bar is {arguments.bar_stored:.1f}")
    if round(touch, 2) > arguments.bar_touch:
        broken.append(f"first touch takes {touch:.3f} of the kernel's time; the bar is {arguments.bar_touch:.2f}")
    for line in broken:
        print(f"FAIL: {line}")
    if not broken:
        print(f"OK: staged {p50['staged']:.1f} µs, stored {above:.1f} µs above the disk's {p50['raw_read']:.1f}; "
              f"first touch {touch:.3f}")
    return 1 if broken else 0
