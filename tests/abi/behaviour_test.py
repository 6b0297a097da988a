"""Programs that check themselves, on glibc's malloc (which checks the check) and on the library."""

from harness import CONFIGURATIONS, HARDENED, check, describe, finish, program, run

PROGRAMS = [
    ["operators"],
    ["replaced_operators"],
    ["lifecycle"],
    ["threads"],
    ["fork"],
    ["streams_flush"],
    ["discard"],
    ["plugin_host", program("plugin.so")],
    ["deepbind_host", program("deepbind_plugin.so")],
    ["fork_allocations"],
    ["limit_change"],
    ["make_process"],
    ["last_thread"],
    ["signals"],
]

for name, *arguments in PROGRAMS:
    command = [program(name), *arguments]
    native = run(command, preload=False)
    check(native.returncode == 0, f"{name} on glibc's malloc", describe(native) + "\n" + native.stdout + native.stderr)
    for configuration in CONFIGURATIONS + HARDENED[1:]:
        ours = run(command, configuration)
        check(ours.returncode == 0, f"{name} [{configuration}]", describe(ours) + "\n" + ours.stdout + ours.stderr)
        check(ours.stderr == native.stderr, f"{name} [{configuration}] has nothing to say", ours.stderr)
        check(ours.stdout == native.stdout, f"{name} [{configuration}] prints the same", ours.stdout)

# Twice the limit: evicted memory discarded, and read by children.
for name, *arguments in (["discard", "128"], ["fork", "96", "1"]):
    for configuration in ("memory:64M", *HARDENED[1:]):
        ours = run([program(name), *arguments], configuration)
        check(ours.returncode == 0, f"{name} at twice the limit [{configuration}]",
              describe(ours) + "\n" + ours.stdout + ours.stderr)
finish()
