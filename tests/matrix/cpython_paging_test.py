"""CPython's tests with every object on malloc and limits at which the interpreter pages, and with it what it forks."""

import cpython

cpython.run("paging", cpython.matrix.UNLIMITED, "malloc", tight=True)
