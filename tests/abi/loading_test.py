"""The beginning and the end of a program: allocation in resolvers of indirect functions and in constructors, before ours
have run; in exit handlers, destructors and threads that outlive main. Preloaded first, last, and not at all, programs do
the same."""

from harness import CONFIGURATIONS, LIBRARY, check, describe, finish, program, run

WAYS = {"return": 0, "exit": 3, "quick_exit": 4, "_exit": 5, "exit_in_thread": 6, "pthread_exit": 0, "detached": 7,
        "detached_quick": 8}
TIMES = {"detached": 20, "detached_quick": 20}
PLUGIN = {"POLDER_TEST_PLUGIN": program("deepbind_plugin.so")}
OTHER = program("libearly.so")

for way, status in WAYS.items():
    native = run([program("endings"), way], preload=False, **PLUGIN)
    check(native.returncode == status and native.stdout.startswith("chosen 42, foreign 1\n") and native.stderr == "",
          f"{way} on glibc's malloc", describe(native) + "\n" + native.stdout + native.stderr)
    for configuration in CONFIGURATIONS:
        for _ in range(TIMES.get(way, 1)):
            ours = run([program("endings"), way], configuration, **PLUGIN)
            check((ours.returncode, ours.stdout, ours.stderr) == (status, native.stdout, ""), f"{way} [{configuration}]",
                  describe(ours) + "\n" + ours.stdout + ours.stderr)

    # Beside another preloaded object that allocates, starts a thread and forks in its constructor.
    other = run([program("endings"), way], preload=False, LD_PRELOAD=OTHER, **PLUGIN)
    for order in (f"{OTHER}:{LIBRARY}", f"{LIBRARY}:{OTHER}"):
        ours = run([program("endings"), way], "memory:64M", LD_PRELOAD=order, **PLUGIN)
        check((ours.returncode, ours.stdout, ours.stderr) == (status, other.stdout, ""), f"{way}, preloaded {order}",
              describe(ours) + "\n" + ours.stdout + ours.stderr)
for binding in ({"LD_BIND_NOW": "1"}, {"LD_BIND_NOT": "1"}):
    ours = run([program("endings"), "return"], "memory:64M", **binding, **PLUGIN)
    check(ours.returncode == 0 and ours.stderr == "", f"return with {binding}", describe(ours) + "\n" + ours.stderr)
finish()
