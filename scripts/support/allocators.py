"""The allocators that are compared: Debian's, by LD_PRELOAD, and this one."""

import sys

from cleanup import run
import build

BASELINE = "jemalloc"
OURS = "polder"
LIMITED = "polder-limited"


class Allocator:
    def __init__(self, name, library, **variables):
        self.name = name
        self.library = str(library)
        self._variables = variables

    def variables(self):
        """What a process's environment needs to run on it, without anything that stood there before."""
        return {"LD_PRELOAD": self.library, **self._variables}

    def environment(self):
        return build.plain_environment(**self.variables())

    def loads(self):
        """Whether a program gets the library, and the library its place before every other malloc."""
        status, output = run(["cat", "/proc/self/maps"], 30, env=self.environment())
        return status == 0 and self.library.rsplit("/", maxsplit=1)[-1].split(".so")[0] in output


def known(library, limit=None):
    """Everything that can be measured; `library` is this project's. With a limit, it is there a second time with it."""
    everything = [
        # Preloaded too: redis-server is linked with jemalloc, and would run on it.
        Allocator("glibc", "libc.so.6"),
        Allocator("mimalloc", "libmimalloc.so.2.0"),
        Allocator("tcmalloc", "libtcmalloc_minimal.so.4"),
        Allocator("tbbmalloc", "libtbbmalloc_proxy.so.2"),
        Allocator("jemalloc-background", "libjemalloc.so.2", MALLOC_CONF="background_thread:true"),
        # Neighbours, as they run one after the other and are compared.
        Allocator(BASELINE, "libjemalloc.so.2"),
        Allocator(OURS, library),
    ]
    if limit:
        everything.append(Allocator(LIMITED, library, POLDER_CONF=f"memory:{limit}"))
    return everything


def choose(library, names=None, limit=None):
    """Those named (comma-separated; all without), in the order of known(). Ends the script when one does not load."""
    everything = known(library, limit)
    if names:
        wanted = names.split(",")
        unknown = set(wanted) - {allocator.name for allocator in everything}
        if unknown:
            sys.exit(f"unknown allocators: {', '.join(sorted(unknown))}; "
                     f"there are {', '.join(allocator.name for allocator in everything)}")
        everything = [allocator for allocator in everything if allocator.name in wanted]
    missing = [allocator.library for allocator in everything if not allocator.loads()]
    if missing:
        sys.exit(f"cannot be preloaded: {', '.join(missing)}; `scripts/install-deps bench` installs what Debian has")
    return everything
