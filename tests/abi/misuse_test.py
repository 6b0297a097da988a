"""Each misuse of the heap ends the program with SIGABRT and one line that names it."""

import re
import signal

from harness import CONFIGURATIONS, HARDENED, check, describe, finish, program, run

FOREIGN = r"polder: {} of 0x[0-9a-f]+, which this allocator did not hand out"
INSIDE = r"polder: {} of 0x[0-9a-f]+, which is not the start of an allocation"
DOUBLE = r"polder: double free of 0x[0-9a-f]+"
NOT_IN_USE = f"({INSIDE})|({FOREIGN})|({DOUBLE})"

EXPECTED = {
    "free_on_stack": FOREIGN.format("free"),
    "free_data": FOREIGN.format("free"),
    "realloc_data": FOREIGN.format("realloc"),
    "usable_data": FOREIGN.format("malloc_usable_size"),
    "free_wild": FOREIGN.format("free"),
    "double_free_small": DOUBLE,
    "double_free_later": DOUBLE,
    "double_free_cached": DOUBLE,
    "double_free_in_threads": DOUBLE,
    "double_free_passing": DOUBLE,
    "double_free_span": DOUBLE,
    "double_free_last_span": DOUBLE,
    "double_free_large": DOUBLE,
    "free_inside_small": INSIDE.format("free"),
    "free_inside_large": INSIDE.format("free"),
    "free_inside_span": INSIDE.format("free"),
    "free_unaligned": INSIDE.format("free"),
    "realloc_inside": INSIDE.format("realloc"),
    "realloc_freed": NOT_IN_USE.format("realloc", "realloc"),
    "sized_too_large": r"polder: free_sized of 0x[0-9a-f]+ with size 1000, which has only 112 bytes",
    "sized_stack": FOREIGN.format("malloc_usable_size"),
    "sized_twice": NOT_IN_USE.format("malloc_usable_size", "malloc_usable_size"),
    "aligned_sized_too_large": r"polder: free_aligned_sized of 0x[0-9a-f]+ with size 4096, which has only 640 bytes",
    "aligned_sized_unaligned": r"polder: free_aligned_sized of 0x[0-9a-f]+ with alignment 70368744177664, which it does not have",
    "free_fake_data": FOREIGN.format("free"),
    "free_fake_arena_data": FOREIGN.format("free"),
    "free_fake_stack": FOREIGN.format("free"),
    "free_fake_arena_stack": FOREIGN.format("free"),
    "free_fake_mapped_stack": FOREIGN.format("free"),
    "free_fake_thread_stack": FOREIGN.format("free"),
    "free_mapping": FOREIGN.format("free"),
    "free_fake_in_mapping": FOREIGN.format("free"),
    "free_fake_arena_in_mapping": FOREIGN.format("free"),
    "free_break": FOREIGN.format("free"),
}

for configuration in CONFIGURATIONS + HARDENED:
    for name, pattern in EXPECTED.items():
        result = run([program("misuse"), name], configuration)
        detail = describe(result) + "\n" + result.stdout + result.stderr
        check(result.returncode == -signal.SIGABRT, f"{name} [{configuration}] aborts", detail)
        check(re.fullmatch(pattern + "\n", result.stderr), f"{name} [{configuration}] says so in one line", detail)
finish()
