"""The stress program under a limit, watched from outside.

POLDER_STRESS_SECONDS (30) is the length of the churn; filling and the last check of everything come on top. The seed is
printed; POLDER_STRESS_SEED repeats it.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "programs"))
import under_limit  # noqa: E402


def run(name, memory, *options, changes=None, library_options=()):
    """Stresses under the limit `memory`; with `changes`, "LOW:HIGH", the program itself changes it as it runs."""
    seconds = int(os.environ.get("POLDER_STRESS_SECONDS", "30"))
    with under_limit.scratch() as directory:
        watch_options = []
        if changes:
            options += ("--limit-changes", changes, "--limit-file", directory / "limit")
            watch_options = ["--limit-file", directory / "limit"]
        command = [under_limit.BUILD / "tests" / "stress" / "stress", "--threads", "4", *options]
        outcome = under_limit.limited(command, memory=memory, timeout=seconds + 270, watch_options=watch_options,
                                      library_options=library_options)
        under_limit.expect(outcome.status == 0, f"status {outcome.status}")
        under_limit.describe(name, outcome)
