"""CPython with every object on malloc, 400 MB of them, under 64 MiB."""

import pathlib
import sys

import under_limit

with under_limit.scratch():
    command = [sys.executable, pathlib.Path(__file__).with_name("python_objects.py")]
    environment = {"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}
    bare = under_limit.plain(command, environment=environment)
    under_limit.expect(bare.status == 0, "the script fails without a limit")
    outcome = under_limit.limited(command, environment=environment)
    under_limit.expect(outcome.status == 0 and outcome.digest == bare.digest, "another output under the limit")
    under_limit.describe("python", outcome, bare)
