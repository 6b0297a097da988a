"""The release build that the scripts measure and show."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Build:
    """Paths of what a build directory holds. Ends the script when something is missing."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory).resolve()
        self.polder = self.directory / "bin" / "polder"
        self.library = self.directory / "lib" / "libpolder.so"

    def program(self, *parts):
        path = self.directory.joinpath(*parts)
        if not path.exists():
            sys.exit(f"{path} is not built")
        return path

    def run(self, memory, *options):
        """The words of `polder run` before the command."""
        if not self.polder.exists() or not self.library.exists():
            sys.exit(f"{self.polder} and {self.library} are not built")
        return [str(self.polder), "run", "--memory", str(memory), *map(str, options), "--"]


def release(directory=None):
    """Builds the release preset (unless a directory is given, which is taken as it is) and returns the Build."""
    if directory:
        return Build(directory)
    for command in (["cmake", "--preset", "release"], ["cmake", "--build", "--preset", "release"]):
        environment = {**os.environ, "CC": "gcc", "CXX": "g++"}
        result = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, check=False)
        if result.returncode != 0:
            sys.exit(f"{result.stdout}\n{' '.join(command)} failed")
    return Build(ROOT / "build" / "release")


def plain_environment(**more):
    """The environment without anything that would load or set up the library."""
    kept = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "POLDER_CONF")}
    return {**kept, **more}
