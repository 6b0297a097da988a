"""scripts/bench ageing: the ageing policies on recorded page traces, beside the best that any could do."""

import collections
import json
import sys

from cleanup import run, scratch_directory
import bar_chart
import build
import pressure_workloads
import report

NAME = "ageing"
HELP = "misses of the ageing policies on page traces of the pressure workloads, beside Belady's OPT"
BARRED = ("zipf", "phases")


def add_arguments(parser):
    parser.add_argument("--bytes", default="64M", help="data of each workload (64M)")
    parser.add_argument("--operations", type=int, default=1_500_000, help="of each workload that is endless (1,500,000)")
    parser.add_argument("--workloads", default=",".join(pressure_workloads.WORKLOADS))
    parser.add_argument("--sizes", default="25,50,75", help="memory in percent of a trace's pages (25,50,75)")
    parser.add_argument("--bar", type=float, default=1.25,
                        help=f"misses of the default policy to OPT's on {' and '.join(BARRED)} (1.25)")


def _replay(built, workload, arguments):
    """Rows of the simulator for the workload's trace."""
    with scratch_directory() as directory:
        trace = f"{directory}/trace"
        # On the library's heap: where neighbours lie is its doing.
        status, _ = run([built.program("bench", "pressure"), workload, "--bytes", arguments.bytes, "--record", trace,
                         "--operations", arguments.operations], 600,
                        env=build.plain_environment(LD_PRELOAD=str(built.library)))
        if status != 0:
            sys.exit(f"recording {workload} ended with status {status}")
        status, output = run([built.program("bench", "ageing"), trace, "--sizes", arguments.sizes], 900)
        if status != 0:
            sys.exit(f"the simulator ended with status {status}")
    return [json.loads(line) for line in output.splitlines()]


def main(arguments):
    built = build.release(arguments.build_dir)
    misses = collections.defaultdict(dict)  # by workload and size, then by policy
    rows, default = [], None
    for workload in arguments.workloads.split(","):
        print(workload, file=sys.stderr, flush=True)
        for row in _replay(built, workload, arguments):
            misses[workload, row["size"]][row["policy"]] = row["misses"]
            rows.append((workload, row["size"], row["policy"], row["misses"], row["soft_faults"], row["stored"]))
            if row["role"] == "default":
                default = row["policy"]
    policies = list(next(iter(misses.values())))
    ratios = {cell: {policy: count / max(1, by_policy["opt"]) for policy, count in by_policy.items()}
              for cell, by_policy in misses.items()}
    print(report.table([(f"{workload} {size:g} %", f"{misses[workload, size]['opt']:,}",
                         *(f"{by_policy[policy]:.2f}" for policy in policies if policy != "opt"))
                        for (workload, size), by_policy in ratios.items()],
                       ("trace and memory", "misses of opt", *(policy for policy in policies if policy != "opt"))))
    path = report.write_csv(NAME, [*report.machine(), ("data", arguments.bytes), ("operations", arguments.operations),
                                   ("default policy", default)],
                            ("workload", "memory_percent", "policy", "misses", "soft_faults", "stored"), rows)
    bar_chart.write((report.ROOT / path).with_suffix(".svg"), "Misses to Belady's OPT",
                    [(f"{workload} {size:g} %", by_policy) for (workload, size), by_policy in ratios.items()], policies)
    print(f"\nkept in {path}; the default is {default}")
    broken = [f"{workload} {size:g} %: {by_policy[default]:.2f} of OPT, above {arguments.bar}"
              for (workload, size), by_policy in ratios.items()
              if workload in BARRED and by_policy[default] > arguments.bar]
    broken += [f"{workload} {size:g} %: more misses than CLOCK"
               for (workload, size), by_policy in misses.items() if by_policy[default] > by_policy["clock"]]
    for line in broken:
        print(f"FAIL: {line}")
    return 1 if broken else 0
