"""CPython's tests as Debian ships it: small objects in mmap'ed arenas, no limit."""

import cpython

cpython.run("as it comes", cpython.matrix.UNLIMITED, "default")
