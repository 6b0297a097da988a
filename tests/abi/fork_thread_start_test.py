"""A child's pager starts as a thread does, with what glibc keeps in the heap for that evicted before the fork."""

from harness import check, describe, finish, program, run

command = [program("fork_thread_start"), program("module.so")]
for configuration in (None, "memory:16M"):
    result = run(command, configuration, preload=configuration is not None)
    check(result.returncode == 0, f"fork_thread_start [{configuration}]", describe(result) + "\n" + result.stderr)
    check(result.stderr == "", f"fork_thread_start [{configuration}] has nothing to say", result.stderr)
finish()
