"""scripts/bench pressure: programs whose data does not fit, against the kernel's swap on the same disk."""

import collections
import pathlib
import re
import sys

import bar_chart
import build
import cleanup
import kernel_swap
import pressure_workloads
import report

NAME = "pressure"
HELP = "data of 1.2 to 4 times the limit, against a memory cgroup with the kernel's swap"
SIDES = ("kernel", "polder", "none")
FIELDS = ("operations_per_s", "p50_us", "p99_us", "p999_us", "max_us", "cpu_s", "read_bytes", "written_bytes", "load_s")


def add_arguments(parser):
    parser.add_argument("--rounds", type=int, default=5, help="runs of each cell on each side, interleaved (5)")
    parser.add_argument("--filter", default=".", metavar="REGEX", help="only the cells whose name matches")
    parser.add_argument("--list", action="store_true", help="print the names of the cells, measure nothing")
    parser.add_argument("--seconds", type=int, default=5, help="measured seconds of a run (5)")
    parser.add_argument("--warm-up", type=int, default=2, help="seconds before them (2)")
    parser.add_argument("--memory", default="256M", help="limit on both sides (256M)")
    parser.add_argument("--swap-dir", default="/var/tmp", help="directory of both swap files (/var/tmp)")
    parser.add_argument("--only", choices=SIDES, help="measure one side alone, compare nothing")
    parser.add_argument("--unwatched", action="store_true",
                        help="without the last run of each cell, in which resident memory is watched")
    parser.add_argument("--bar", type=float, default=2.0, help="geometric mean of throughput to the kernel's (2.0)")
    parser.add_argument("--bar-cell", type=float, default=1.2, help="throughput of any cell (1.2)")
    parser.add_argument("--bar-p99", type=float, default=0.7, help="geometric mean of the 99th percentiles (0.7)")


class Runner:
    """Runs cells on sides."""

    def __init__(self, built, arguments):
        self._built = built
        self._memory = arguments.memory
        self._swap_directory = arguments.swap_dir
        self._polder = built.run(arguments.memory, "--swap-dir", arguments.swap_dir)
        self._limit = report.parse_size(arguments.memory)
        self._times = pressure_workloads.Times(arguments.seconds, arguments.warm_up,
                                               pressure_workloads.device_statistics(arguments.swap_dir))

    def run(self, cell, side):
        """The cell's figures."""
        bytes_ = int(cell.ratio * self._limit)
        if side == "polder":
            return cell.run(self._built, bytes_, self._times, self._polder)
        if side == "none":
            return cell.run(self._built, bytes_, self._times)
        with kernel_swap.limited(self._limit, self._swap_directory, 2 * bytes_) as cgroup:
            return cell.run(self._built, bytes_, self._times, preexec_fn=cgroup.enter)

    def watch(self, cell):
        """None, or how the library exceeded its limit."""
        watcher = [str(self._built.program("tests", "stress", "resident_watch")), "--limit", self._memory,
                   "--interval-ms", "10", "--"]
        # The watcher has the statistics segment's place from there.
        with cleanup.scratch_directory() as directory:
            polder = self._built.run(self._memory, "--swap-dir", self._swap_directory, "--stats",
                                     pathlib.Path(directory, "stats.json"))
            try:
                cell.run(self._built, int(cell.ratio * self._limit), self._times, [*watcher, *polder])
            except pressure_workloads.Failure as failure:
                return str(failure)
        return None


def _measure(runner, cells, sides, rounds):
    samples = {cell: collections.defaultdict(list) for cell in cells}
    for number in range(rounds):
        turn = number % len(sides)
        for cell in cells:
            for side in sides[turn:] + sides[:turn]:
                print(f"round {number + 1}/{rounds}: {cell.name}, {side}", file=sys.stderr, flush=True)
                try:
                    samples[cell][side].append(runner.run(cell, side))
                except pressure_workloads.Failure as failure:
                    raise pressure_workloads.Failure(f"{cell.name}, {side}: {failure}") from failure
    return samples


def _medians(samples):
    return {field: report.median([sample[field] for sample in samples]) if field in samples[0] else None
            for field in FIELDS}


def _figure(value):
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio(medians, field):
    """Of this library's to the kernel's; None where one of them has no such figure."""
    ours, kernels = medians["polder"][field], medians["kernel"][field]
    return None if ours is None or kernels is None else ours / kernels


def _compare(medians, arguments):
    """Prints what the bars are about; whether all of them are met."""
    throughput = {cell: _ratio(by_side, "operations_per_s") for cell, by_side in medians.items()}
    p99 = {cell: _ratio(by_side, "p99_us") for cell, by_side in medians.items()}
    print(report.table([(cell.name,
                         *(_figure(by_side[side]["operations_per_s"]) for side in SIDES), f"{throughput[cell]:.2f}",
                         *(_figure(by_side[side]["p99_us"]) for side in ("kernel", "polder")), f"{p99[cell]:.2f}")
                        for cell, by_side in medians.items()],
                       ("cell", "kernel/s", "polder/s", "unlimited/s", "ratio", "p99 kernel us", "polder us", "ratio")))
    mean = report.geometric_mean(throughput.values())
    mean_p99 = report.geometric_mean(p99.values())
    broken = [f"{cell.name}: {ratio:.2f}, below {arguments.bar_cell}"
              for cell, ratio in throughput.items() if ratio < arguments.bar_cell]
    if mean < arguments.bar:
        broken.append(f"geometric mean of throughput: {mean:.2f}, below {arguments.bar}")
    if mean_p99 > arguments.bar_p99:
        broken.append(f"geometric mean of the 99th percentiles: {mean_p99:.2f}, above {arguments.bar_p99}")
    groups = [(cell.name, {"throughput": throughput[cell], "p99": p99[cell]}) for cell in medians]
    return groups, broken, f"geomean throughput {mean:.2f} p99 {mean_p99:.2f} vs kernel swap"


def _keep(medians, description, groups):
    rows = [(cell.workload, cell.threads, cell.ratio, cell.object_size, side,
             *(_plain(by_side[side][field]) for field in FIELDS))
            for cell, by_side in medians.items() for side in by_side]
    path = report.write_csv(NAME, description, ("workload", "threads", "data_to_limit", "object_size", "side", *FIELDS),
                            rows)
    print(f"\nkept in {path}")
    if groups:
        bar_chart.write((report.ROOT / path).with_suffix(".svg"),
                        "Under pressure, to the kernel's swap: throughput (more is better), p99 (less)", groups,
                        ("throughput", "p99"), longest=5)


def _plain(value):
    return "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")


def main(arguments):
    cells = [cell for cell in pressure_workloads.cells() if re.search(arguments.filter, cell.name)]
    if arguments.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    if not cells:
        sys.exit(f"no cell matches {arguments.filter!r}; --list names them")
    built = build.release(arguments.build_dir)
    description = report.machine(arguments.swap_dir)
    runner = Runner(built, arguments)
    sides = (arguments.only,) if arguments.only else SIDES
    try:
        samples = _measure(runner, cells, sides, arguments.rounds)
        broken = [] if arguments.unwatched or "polder" not in sides else [
            f"{cell.name}, watched: {problem}" for cell in cells if (problem := runner.watch(cell))]
    except kernel_swap.Unavailable as reason:
        print(f"this machine does not allow the comparison: {reason}")
        return 77
    except pressure_workloads.Failure as failure:
        print(f"FAIL: {failure}")
        return 1
    medians = {cell: {side: _medians(by_side[side]) for side in sides} for cell, by_side in samples.items()}
    description += [("limit", arguments.memory), ("rounds", arguments.rounds), ("seconds", arguments.seconds),
                    ("warm-up", arguments.warm_up)]
    if arguments.only:
        print(report.table([(cell.name, *(_figure(by_side[arguments.only][field]) for field in FIELDS))
                            for cell, by_side in medians.items()], ("cell", *FIELDS)))
        groups, last = [], None
    else:
        groups, missed, last = _compare(medians, arguments)
        broken += missed
    _keep(medians, description, groups)
    for line in broken:
        print(f"FAIL: {line}")
    if last:
        print(last)
    return 1 if broken else 0
