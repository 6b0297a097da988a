"""The malloc family gives what glibc's gives: the same program prints the same text on both."""

import difflib

from harness import CONFIGURATIONS, HARDENED, check, describe, finish, program, run

native = run([program("conformance")], preload=False)
check(native.returncode == 0 and len(native.stdout) > 100000, "on glibc's malloc", describe(native))
for configuration in CONFIGURATIONS + HARDENED:
    ours = run([program("conformance")], configuration)
    check(ours.returncode == 0, f"conformance [{configuration}]", describe(ours) + "\n" + ours.stderr)
    difference = difflib.unified_diff(native.stdout.splitlines(), ours.stdout.splitlines(), "glibc", "polder", n=0,
                                      lineterm="")
    check(native.stdout == ours.stdout, f"same text as glibc [{configuration}]", "\n".join(difference))
finish()
