"""The other two libraries: libpolder.a, linked into programs that are dynamic otherwise, static or static-pie, is their malloc
as the preloaded library would be; libpolder-dl.so replaces nothing and can be opened late, beside any malloc."""

import os
import re
import shutil
import signal
import subprocess
import tempfile

from harness import BUILD, CONFIGURATIONS, HARDENED, LIBRARY, SOURCE, check, describe, finish, program, run

BESIDE = os.path.join(BUILD, "lib", "libpolder-dl.so")
VERSION = re.search(r"project\(polder VERSION ([\d.]+)", open(os.path.join(SOURCE, "CMakeLists.txt")).read()).group(1)


def about(malloc, limit=0):
    return f"version {VERSION}, limit {limit}, malloc is {malloc}\n"


# --- the archive
PROGRAMS = ["conformance", "operators", "replaced_operators", "threads", "streams_flush", "discard", "lifecycle", "last_thread"]
natives = {}


def compare(linkage, name, *arguments):
    """A program that has the library linked in prints what it prints on glibc's malloc."""
    if name not in natives:
        natives[name] = run([program("deepbind_host" if name == "host" else name), *arguments], preload=False)
        check(natives[name].returncode == 0, f"{name} on glibc's malloc", describe(natives[name]))
    ours = run([program(f"{linkage}/{name}"), *arguments], "memory:64M", preload=False)
    check(ours.returncode == 0 and ours.stderr == "", f"{linkage}/{name}",
          describe(ours) + "\n" + ours.stdout[-500:] + ours.stderr)
    # What is linked in is destroyed in another order than what is a shared object.
    lines = [sorted(result.stdout.splitlines()) for result in (ours, natives[name])]
    check(lines[0] == lines[1], f"{linkage}/{name} prints the same", ours.stdout[-500:])


compare("archive", "host", program("deepbind_plugin.so"))
for linkage in ("archive", "static", "static_pie"):
    for name in PROGRAMS:
        compare(linkage, name)
    ours = run([program(f"{linkage}/program")], "memory:64M", preload=False)
    check(ours.returncode == 0 and ours.stdout == about("replaced", 64 << 20), f"{linkage}: a C program",
          describe(ours) + "\n" + ours.stdout + ours.stderr)
    header = subprocess.run(["readelf", "-hlW", program(f"{linkage}/program")], stdout=subprocess.PIPE, text=True).stdout
    check(("INTERP" in header) == (linkage == "archive"), f"{linkage}: links as it says", header)

# Above the limit, with children.
for command in (["archive/make_process"], ["static/discard", "128"], ["static/blocks", "128"], ["static_pie/fork", "96", "1"]):
    ours = run([program(command[0]), *command[1:]], "memory:64M", preload=False)
    check(ours.returncode == 0, f"{' '.join(command)} above the limit", describe(ours) + "\n" + ours.stdout + ours.stderr)

# --- beside another malloc
with tempfile.TemporaryDirectory() as folder:
    fillers = []
    for index in range(40):
        fillers.append(os.path.join(folder, f"filler{index}.so"))
        shutil.copy(program("static_tls.so"), fillers[-1])
    # On libc's malloc, and in a program that has the other library: two heaps, each with a limit of its own.
    for preload in (False, True):
        for configuration in CONFIGURATIONS + HARDENED:
            result = run([program("beside"), BESIDE, *fillers], configuration, preload=preload)
            check(result.returncode == 0 and result.stdout == "ok\n" and result.stderr == "",
                  f"beside {'the preloaded library' if preload else 'glibc'} [{configuration}]",
                  describe(result) + "\n" + result.stdout + result.stderr)
    result = run([program("beside"), BESIDE, "foreign"], preload=False)
    check(result.returncode == -signal.SIGABRT, "a pointer of libc's", describe(result) + "\n" + result.stdout)
    check(re.fullmatch(r"polder: free of 0x[0-9a-f]+, which this allocator did not hand out\n", result.stderr),
          "a pointer of libc's: line", result.stderr)

    # A static program could not reach the C library's _Fork, and must not think that it had it.
    source = os.path.join(folder, "forks.c")
    with open(source, "w") as file:
        file.write("#define _GNU_SOURCE\n#include <unistd.h>\nint main(void) { return _Fork() == 0; }\n")
    archive = os.path.join(BUILD, "lib", "libpolder.a")
    for option, links in (("-static", False), ("-pie", True)):
        linked = subprocess.run(["cc", option, source, archive, "-o", os.path.join(folder, "forks")],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        check((linked.returncode == 0) == links, f"a program that calls _Fork {option}", linked.stdout)

    # Linked, as its header says.
    for library, malloc in ((BESIDE, "libc's"), (LIBRARY, "replaced")):
        linked = os.path.join(folder, "linked")
        subprocess.run(["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fno-builtin-malloc", "-I", os.path.join(SOURCE, "include"),
                        os.path.join(SOURCE, "tests", "abi", "libraries", "program.c"), "-o", linked, library,
                        "-Wl,-rpath," + os.path.dirname(library)], check=True)
        result = run([linked], preload=False)
        check(result.returncode == 0 and result.stdout == about(malloc), f"linked with {library}",
              describe(result) + "\n" + result.stdout + result.stderr)
finish()
