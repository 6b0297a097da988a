"""scripts/bench malloc: many workloads and real programs, on every allocator in turn."""

import collections
import re
import statistics
import sys
import time

import allocators
import bar_chart
import build
import cleanup
import malloc_workloads
import report

NAME = "malloc"
HELP = "workloads of the literature and real programs: time and peak memory beside Debian's allocators"

QUICK_SCALE = 0.02

# Held against the best of the others, not only against jemalloc.
MICRO = ("batch", "replace_100k", "replace_1m", "xmalloc", "exchange", "realloc_array", "large", "thread_start")
MICRO_BEST = 6  # so many of them at least equal to it

Medians = collections.namedtuple("Medians", "wall cpu peak ns fastest slowest")


def add_arguments(parser):
    parser.add_argument("--rounds", type=int, help="runs of each workload on each allocator, interleaved (5)")
    parser.add_argument("--most-rounds", type=int, help="of a workload whose rounds do not agree about a bar (15)")
    parser.add_argument("--minutes", type=float, help="begin no round after so many, whatever is left to be decided")
    parser.add_argument("--filter", default=".", metavar="REGEX", help="only the workloads whose name matches")
    parser.add_argument("--allocators", metavar="LIST", help="only these, separated by commas; jemalloc must be there")
    parser.add_argument("--limit", metavar="SIZE", help="also polder with a limit, which should not be reached")
    parser.add_argument("--quick", action="store_true", help="a look whether all works: tiny, one round, no bars")
    parser.add_argument("--bar-time", type=float, default=0.80, help="geometric mean of time to jemalloc (0.80)")
    parser.add_argument("--bar-rss", type=float, default=0.80, help="geometric mean of peak RSS to jemalloc (0.80)")
    parser.add_argument("--bar-workload-time", type=float, default=1.10, help="time of any workload (1.10)")
    parser.add_argument("--bar-workload-rss", type=float, default=1.15, help="peak RSS of any workload (1.15)")
    parser.add_argument("--bar-micro", type=float, default=1.20,
                        help=f"time to the best of the others: {', '.join(MICRO)} (1.20)")
    parser.add_argument("--bar-limit", type=float, default=1.02, help="time with a limit to that without (1.02)")


def _chosen_workloads(built, pattern):
    everything = malloc_workloads.suite(built) + malloc_workloads.programs()
    chosen = [workload for workload in everything if re.search(pattern, workload.name)]
    if not chosen:
        sys.exit(f"no workload matches; there are {', '.join(workload.name for workload in everything)}")
    missing = {workload.missing() for workload in chosen} - {None}
    if missing:
        sys.exit(f"not installed: {', '.join(sorted(missing))}; `scripts/install-deps bench` does it")
    return chosen


def _measure(bench, chosen, sides, arguments, rounds, most_rounds):
    """Every workload's samples by allocator. Neighbours in time are the runs of one workload; their order rotates.

    After `rounds`, a workload is run again for as long as its rounds do not agree which side of a bar it is on,
    `most_rounds` at most: on those that this is about, and None is the sample of the rest. One that fails on one of the
    others has no samples there, and a line in the second value; on jemalloc, and on polder, a failure ends everything.
    """
    samples = {workload.name: collections.defaultdict(list) for workload in chosen}
    failures = {}
    for workload in chosen:
        workload.prepare(bench)
    begin = time.monotonic()
    for number in range(most_rounds):
        if number != 0 and arguments.minutes and time.monotonic() - begin > arguments.minutes * 60:
            break
        doubts = None
        if number >= rounds:
            doubts = {workload.name: _in_doubt(workload.name, samples[workload.name], arguments) for workload in chosen}
            chosen = [workload for workload in chosen if doubts[workload.name]]
        turn = number % len(sides)
        order = sides[turn:] + sides[:turn]
        for workload in chosen:
            print(f"round {number + 1}: {workload.name}", file=sys.stderr, flush=True)
            for side in order:
                if (workload.name, side.name) in failures:
                    continue
                if doubts is not None and side.name not in doubts[workload.name]:
                    samples[workload.name][side.name].append(None)
                    continue
                try:
                    samples[workload.name][side.name].append(workload.run(bench, side.variables()))
                except malloc_workloads.Failure as failure:
                    text = f"{workload.name} on {side.name}: {failure}"
                    if side.name in (allocators.BASELINE, allocators.OURS, allocators.LIMITED):
                        raise malloc_workloads.Failure(text) from failure
                    failures[workload.name, side.name] = text
                    samples[workload.name].pop(side.name, None)
    return samples, failures.values()


def _rounds_ratios(samples, others, field):
    """One ratio for each round: what stands side by side in it was run within a minute."""
    pairs = [(sample, other) for sample, other in zip(samples, others) if sample and other]
    return [getattr(sample, field) / getattr(other, field) for sample, other in pairs]


def _in_doubt(workload, by_name, arguments):
    """Who has to run again: ours, the baseline, and those about whom a bar is that lies within the middle half of the
    rounds' ratios; nobody where no bar does."""
    def straddles(name, field, *bars):
        low, _, high = statistics.quantiles(_rounds_ratios(by_name[allocators.OURS], by_name[name], field), n=4)
        return any(low < bar < high for bar in bars)

    others = set()
    if straddles(allocators.BASELINE, "wall", arguments.bar_workload_time):
        others.add(allocators.BASELINE)
    # The nearest of the others is whom the bars are about; it may turn out to be another of those beside it.
    if workload in MICRO and straddles(_nearest(by_name)[1], "ns", 1, arguments.bar_micro):
        others |= {name for name in _others(by_name) if straddles(name, "ns", 1, arguments.bar_micro)}
    return others | {allocators.OURS, allocators.BASELINE} if others else others


def _nearest(by_name):
    """The largest of the median ratios of ours to one of the others, and which of them that is."""
    return max((report.median(_rounds_ratios(by_name[allocators.OURS], by_name[name], "ns")), name)
               for name in _others(by_name))


def _others(names):
    return [name for name in names if name not in (allocators.OURS, allocators.LIMITED)]


def _medians(samples):
    samples = [sample for sample in samples if sample]
    walls = [sample.wall for sample in samples]
    ns = [sample.ns for sample in samples if sample.ns is not None]
    return Medians(report.median(walls), report.median([sample.cpu for sample in samples]),
                   report.median([sample.peak for sample in samples]), report.median(ns) if ns else None,
                   min(walls), max(walls))


class Results:
    """Medians by workload and allocator, and of their ratios to the baseline in each round.

    Nothing where an allocator failed.
    """

    def __init__(self, samples, names):
        self.names = names
        self.samples = samples
        self.medians = {workload: {name: _medians(by_name[name]) for name in names if name in by_name}
                        for workload, by_name in samples.items()}
        self.time = self._ratios("wall")
        self.rss = self._ratios("peak")

    def _ratios(self, field):
        return {workload: {name: report.median(_rounds_ratios(by_name[name], by_name[allocators.BASELINE], field))
                           for name in self.names if name in by_name}
                for workload, by_name in self.samples.items()}

    def micro(self):
        return {workload: _nearest(self.samples[workload]) for workload in MICRO if workload in self.samples}

    def mean(self, ratios, name, beside=None):
        """Over the workloads that the allocator ended, and `beside` too when it is given."""
        beside = beside or name
        return report.geometric_mean([by_name[name] for by_name in ratios.values()
                                      if name in by_name and beside in by_name])

    def means(self):
        return {name: (self.mean(self.time, name), self.mean(self.rss, name)) for name in self.names}

    def table(self, cells, decimals):
        """`cells` are values by allocator by workload."""
        rows = [(workload, *(f"{by_name[name]:,.{decimals}f}" if name in by_name else "failed" for name in self.names))
                for workload, by_name in cells.items()]
        return report.table(rows, ("workload", *self.names))

    def nanoseconds(self):
        return {workload: {name: medians.ns for name, medians in by_name.items()}
                for workload, by_name in self.medians.items() if by_name[allocators.BASELINE].ns is not None}

    def rows(self):
        for workload, by_name in self.medians.items():
            for name, m in by_name.items():
                yield (workload, name, sum(sample is not None for sample in self.samples[workload][name]),
                       f"{m.wall:.4f}", f"{m.fastest:.4f}", f"{m.slowest:.4f}", f"{m.cpu:.4f}",
                       int(m.peak), "" if m.ns is None else f"{m.ns:.2f}", f"{self.time[workload][name]:.3f}",
                       f"{self.rss[workload][name]:.3f}")


HEADER = ("workload", "allocator", "rounds", "wall_s", "fastest_s", "slowest_s", "cpu_s", "peak_rss_kib",
          "ns_per_operation", "time_ratio", "rss_ratio")


def _broken_bars(results, arguments):
    """One line for each bar that is not reached. Compared as printed: with two decimals."""
    ours, means = allocators.OURS, results.means()
    time, rss = (round(value, 2) for value in means[ours])
    if time > arguments.bar_time:
        yield f"time {time:.2f} of jemalloc's; the bar is {arguments.bar_time:.2f}"
    if rss > arguments.bar_rss:
        yield f"peak RSS {rss:.2f} of jemalloc's; the bar is {arguments.bar_rss:.2f}"
    for name in _others(results.names):
        for what, ratios in (("time", results.time), ("peak RSS", results.rss)):
            mean, other = (round(results.mean(ratios, which, beside=name), 2) for which in (ours, name))
            if mean > other:
                yield f"{what} {mean:.2f}; {name} has {other:.2f}"
    for what, ratios, bar in (("time", results.time, arguments.bar_workload_time),
                              ("peak RSS", results.rss, arguments.bar_workload_rss)):
        for workload, by_name in ratios.items():
            if round(by_name[ours], 2) > bar:
                yield f"{workload}: {what} {by_name[ours]:.2f} of jemalloc's; the bar is {bar:.2f}"
    micro = {workload: (round(ratio, 2), name) for workload, (ratio, name) in results.micro().items()}
    best = sum(ratio <= 1 for ratio, _ in micro.values())
    if len(micro) == len(MICRO) and best < MICRO_BEST:
        yield f"{best} of {', '.join(MICRO)} are at least equal to the best of the others; the bar is {MICRO_BEST}"
    for workload, (ratio, name) in micro.items():
        if ratio > arguments.bar_micro:
            yield f"{workload}: time {ratio:.2f} of {name}'s; the bar is {arguments.bar_micro:.2f}"
    if allocators.LIMITED in means:
        ratio = round(means[allocators.LIMITED][0] / means[ours][0], 3)
        if ratio > arguments.bar_limit:
            yield f"time with the limit {ratio:.3f} of that without; the bar is {arguments.bar_limit:.2f}"


def _keep(results, description, quick):
    """Writes the CSV and the two charts beside it; returns their paths."""
    csv = report.write_csv("malloc-quick" if quick else "malloc", description, HEADER, results.rows())
    paths = [str(csv)]
    for what, title, ratios in (("time", "Time relative to jemalloc, lower is better", results.time),
                                ("rss", "Peak RSS relative to jemalloc, lower is better", results.rss)):
        path = csv.with_name(f"{csv.stem}-{what}.svg")
        mean = {name: results.mean(ratios, name) for name in results.names}
        bar_chart.write(report.ROOT / path, title, [("geometric mean", mean), *ratios.items()], results.names)
        paths.append(str(path))
    return paths


def main(arguments):
    built = build.release(arguments.build_dir)
    if not built.library.exists():
        sys.exit(f"{built.library} is not built")
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    most_rounds = rounds if arguments.quick else max(rounds, arguments.most_rounds or 15)
    if rounds < 1 or rounds == 1 < most_rounds:
        sys.exit("--rounds: at least 2, or --most-rounds 1 too: one round cannot disagree with itself")
    sides = allocators.choose(built.library, arguments.allocators, arguments.limit)
    names = [side.name for side in sides]
    for name in (allocators.BASELINE, allocators.OURS):
        if name not in names:
            sys.exit(f"--allocators must name {name}: the results are about it")
    chosen = _chosen_workloads(built, arguments.filter)
    description = report.machine()
    with cleanup.scratch_directory() as directory:
        bench = malloc_workloads.Bench(built, directory, QUICK_SCALE if arguments.quick else 1)
        try:
            samples, failures = _measure(bench, chosen, sides, arguments, rounds, most_rounds)
        except malloc_workloads.Failure as failure:
            print(f"FAIL: {failure}")
            return 1
    results = Results(samples, names)
    settings = [("rounds", f"{rounds} to {most_rounds}"), ("scale", bench.scale), ("limit", arguments.limit or "none"),
                *(("left out", failure) for failure in failures)]
    paths = _keep(results, [*description, *settings], arguments.quick)

    nanoseconds = results.nanoseconds()
    if nanoseconds:
        print(f"ns per operation\n\n{results.table(nanoseconds, 1)}\n")
    print(f"peak RSS relative to jemalloc\n\n{results.table(results.rss, 2)}\n")
    print(f"wall clock relative to jemalloc\n\n{results.table(results.time, 2)}\n")
    micro = results.micro()
    if micro:
        rows = [(workload, f"{ratio:.2f}", name) for workload, (ratio, name) in micro.items()]
        print(f"time beside the best of the others\n\n{report.table(rows, ('workload', 'ratio', 'best'))}\n")
    for failure in failures:
        print(f"left out: {failure}")
    broken = [] if arguments.quick else list(_broken_bars(results, arguments))
    fewest = min(len(by_name[allocators.OURS]) for by_name in samples.values())
    if fewest < rounds:
        broken.append(f"{fewest} rounds in {arguments.minutes:g} minutes; {rounds} were asked for")
    for line in broken:
        print(f"FAIL: {line}")
    print(f"medians of {rounds} to {most_rounds} interleaved rounds, ratios within a round, lower is better; "
          f"kept in {', '.join(paths)}\n")
    means = results.means()
    print(report.table([(name, f"{time:.2f}", f"{rss:.2f}") for name, (time, rss) in means.items()],
                       ("geometric means", "time", "peak RSS")))
    time, rss = means[allocators.OURS]
    print(f"\ngeomean time {time:.2f} rss {rss:.2f} vs {allocators.BASELINE}")
    return 1 if broken else 0
