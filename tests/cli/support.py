"""What the tests of the command share."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

BINARY = os.environ.get("POLDER_BIN", str(Path(__file__).resolve().parents[2] / "build/release/bin/polder"))
LIBRARY = os.environ.get("POLDER_LIB", str(Path(BINARY).parents[1] / "lib/libpolder.so"))

# Python as a user of malloc: its own small-object arenas come from mmap otherwise.
PYTHON_ON_MALLOC = {"PYTHONMALLOC": "malloc"}


def run(*arguments, env=None, **options):
    """Runs the command to its end; text in and out."""
    options.setdefault("timeout", 400)
    environment = {**os.environ, **(env or {})}
    return subprocess.run([BINARY, *map(str, arguments)], env=environment, capture_output=True, text=True,
                          check=False, **options)


class CommandTest(unittest.TestCase):
    def assert_refused(self, result, status, *words):
        """One line on standard error that contains the words, and the status."""
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertTrue(result.stderr.startswith("polder: "), result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)


def main():
    if not os.access(BINARY, os.X_OK):
        print(f"no {BINARY}", file=sys.stderr)
        sys.exit(1)
    unittest.main(verbosity=1)
