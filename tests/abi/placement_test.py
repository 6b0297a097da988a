"""Where the heap lies: elsewhere in every run, at the same place where randomization is off, and anywhere at all where
address space is short."""

import resource
import subprocess

from harness import CONFIGURATIONS, check, describe, environment, finish, program, run

PROGRAM = program("placement")
RUNS = 6


def places(configuration, command):
    """The addresses that runs of the program print: of an object, a span and a large run each."""
    found = []
    for _ in range(RUNS):
        result = run(command, configuration)
        lines = result.stdout.split()
        check(result.returncode == 0 and len(lines) == 3, f"[{configuration}] {command}",
              describe(result) + "\n" + result.stdout + result.stderr)
        found.append(tuple(lines))
    return found


for configuration in CONFIGURATIONS:
    for column, kind in zip(zip(*places(configuration, [PROGRAM])), ("objects", "spans", "large runs")):
        check(len(set(column)) == RUNS, f"[{configuration}] {kind} lie elsewhere in every run", column)
    fixed = places(configuration, ["setarch", "-R", PROGRAM])
    check(len(set(fixed)) == 1, f"[{configuration}] all is where it was without randomization", fixed)

    short = subprocess.run([PROGRAM], env=environment(configuration), capture_output=True, text=True, timeout=400,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30)))
    check(short.returncode == 0, f"[{configuration}] 16 GiB of address space suffice",
          describe(short) + "\n" + short.stderr)
finish()
