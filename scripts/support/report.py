"""What scripts print and keep: tables, CSV files, the description of the machine."""

import csv
import datetime
import os
import pathlib
import platform
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def table(rows, header=None, right=None):
    """Lines of a table; columns named in `right` (default: all but the first) are aligned to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    everything = ([list(header)] if header else []) + rows
    widths = [max(len(row[i]) for row in everything) for i in range(len(everything[0]))]
    right = range(1, len(widths)) if right is None else right

    def line(row):
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        return "  ".join(cells).rstrip()

    lines = []
    if header:
        lines += [line(list(header)), "  ".join("-" * width for width in widths)]
    return "\n".join(lines + [line(row) for row in rows])


def mebibytes(count):
    return "-" if count is None else f"{count / (1 << 20):,.1f} MiB"


def seconds(value):
    return "-" if value is None else f"{value:.1f} s"


def parse_size(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    if not match:
        raise ValueError(f"not a size: {text}")
    return int(float(match.group(1)) * 1024 ** " KMGT".index(match.group(2) or " "))


def _first_line(path, pattern):
    try:
        for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
            match = re.match(pattern, line)
            if match:
                return match.group(1).strip()
    except OSError:
        pass
    return "unknown"


def filesystem_of(directory):
    """Type and device of the filesystem that holds the directory."""
    best = ("", "unknown", "unknown")
    path = str(pathlib.Path(directory).resolve())
    for line in pathlib.Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        device, mount, kind = line.split()[:3]
        if (path + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(best[0]):
            best = (mount, kind, device)
    return f"{best[1]} on {best[2]}"


def machine(swap_directory="/var/tmp"):
    """(name, value) pairs that a figure is worth nothing without."""
    memory_kib = int(_first_line("/proc/meminfo", r"MemTotal:\s+(\d+)") or 0)
    zswap = _first_line("/sys/module/zswap/parameters/enabled", r"(.*)")
    return [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("processor", _first_line("/proc/cpuinfo", r"model name\s*:\s*(.*)")),
        ("cpus", len(os.sched_getaffinity(0))),
        ("memory", f"{memory_kib >> 10} MiB"),
        ("kernel", platform.release()),
        ("system", _first_line("/etc/os-release", r'PRETTY_NAME="?([^"]*)')),
        ("swap on", filesystem_of(swap_directory)),
        ("zswap", {"Y": "on", "N": "off"}.get(zswap, "absent")),
        ("transparent huge pages", _first_line("/sys/kernel/mm/transparent_hugepage/enabled", r".*\[(\w+)\]")),
        ("load at start", f"{os.getloadavg()[0]:.2f}"),
    ]


def write_csv(name, description, header, rows):
    """Keeps results under bench/results/ with the machine's description in leading comment lines; returns the path."""
    directory = ROOT / "bench" / "results"
    directory.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = directory / f"{name}-{stamp}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        for key, value in description:
            file.write(f"# {key}: {value}\n")
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path.relative_to(ROOT)


def median(values):
    return statistics.median(values)


def geometric_mean(values):
    return statistics.geometric_mean(values)


class ProgressLine:
    """One line on the terminal that is rewritten; plain lines now and then when the output is no terminal."""

    def __init__(self, stream=sys.stderr):
        self._stream = stream
        self._terminal = stream.isatty()
        self._last = 0.0

    def show(self, text, now):
        if self._terminal:
            self._stream.write("\r\033[K" + text)
            self._stream.flush()
        elif now - self._last >= 5:
            self._last = now
            print(text, file=self._stream, flush=True)

    def clear(self):
        if self._terminal:
            self._stream.write("\r\033[K")
            self._stream.flush()
