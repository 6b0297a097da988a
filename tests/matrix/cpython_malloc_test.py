"""CPython's tests with every object on malloc and a limit that is not reached."""

import cpython

cpython.run("on malloc", cpython.matrix.ROOMY, "malloc")
