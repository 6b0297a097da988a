"""POLDER_CONF: what cannot be read ends the program before it starts, with one line and status 2; the rest is obeyed."""

import os
import subprocess
import tempfile

from harness import LIBRARY, check, describe, environment, finish, program, run

BAD = {
    "memory": "polder: option memory: has no value; write it as key:value",
    "memory:": "polder: option memory: '' is not a size such as 64M or 1.5G",
    "memory:lots": "polder: option memory: 'lots' is not a size such as 64M or 1.5G",
    "memory:4M": "polder: option memory: 4M is below the minimum of 8M",
    "memory:64M,swap-size:1": "polder: option swap-size: 1 is below the minimum of 256K",
    "colour:red": "polder: option colour: is not an option of this version",
    "hardened:": "polder: option hardened: '' is neither 0 nor 1",
    "hardened:yes": "polder: option hardened: 'yes' is neither 0 nor 1",
    "memory:64M,io:fast": "polder: option io: 'fast' is none of auto, uring, workers",
}
for configuration, line in BAD.items():
    result = run(["/bin/echo", "started"], configuration)
    check(result.returncode == 2, f"{configuration}: status", describe(result))
    check(result.stderr == line + "\n", f"{configuration}: line", result.stderr)
    check(result.stdout == "", f"{configuration}: the program does not start", result.stdout)

# The limit arrives, from the initial environment and not from what the program makes of it later.
for configuration, limit in (("", 0), ("memory:64M", 64 << 20), ("memory:8M", 8 << 20), ("memory:1.5G", 3 << 29)):
    result = run([program("api")], configuration)
    check(result.returncode == 0 and f"limit {limit}\n" in result.stdout, f"limit of '{configuration}'", result.stdout)
result = run([program("api")], preload=False)
check(result.stdout == "no library\n", "without the library", result.stdout)
result = run(["/usr/bin/env", "POLDER_CONFIG=memory:bad", "POLDER_CONF_=x", "XPOLDER_CONF=y", "/bin/echo", "ok"])
check(result.stdout == "ok\n", "variables of similar names", result.stderr)

# Statistics: counted in the supervisor's file by the process whose id it names, and by no other.
result = run([program("supervisor"), LIBRARY], preload=False)
check(result.returncode == 0, "statistics segment", describe(result) + "\n" + result.stdout + result.stderr)

# Programs that gained privileges take no orders from the environment. The library must be linked for that: the dynamic
# linker does not preload into them either.
with tempfile.TemporaryDirectory() as folder:
    source = os.path.join(folder, "linked.c")
    with open(source, "w") as file:
        file.write("#include <stdio.h>\n#include <stdlib.h>\n#include <sys/auxv.h>\nsize_t polder_get_memory_limit(void);\n"
                   "int main(void) { free(malloc(1)); printf(\"%lu %zu\\n\", getauxval(AT_SECURE),\n"
                   "polder_get_memory_limit()); }\n")
    linked = os.path.join(folder, "linked")
    subprocess.run(["cc", source, "-o", linked, LIBRARY, "-Wl,-rpath," + os.path.dirname(LIBRARY)], check=True)
    result = run([linked], "memory:64M", preload=False)
    check(result.stdout == f"0 {64 << 20}\n", "a program that links the library", result.stdout + result.stderr)
    if os.geteuid() == 0:
        os.chmod(folder, 0o755)
        os.chmod(linked, 0o4755)
        demoted = subprocess.run([linked], env=environment("memory:64M", preload=False), stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, user=65534, group=65534)
        readable = demoted.returncode == 0 and demoted.stdout.startswith("1 ")
        check(not readable or demoted.stdout == "1 0\n", "AT_SECURE ignores POLDER_CONF",
              demoted.stdout + demoted.stderr)
        if not readable:
            print("not checked: set-user-id program could not be run here")

# Other ways for a program to come to life.
result = run(["/lib64/ld-linux-x86-64.so.2", "--preload", LIBRARY, program("api")], "memory:64M", preload=False)
check(result.returncode == 0 and f"limit {64 << 20}\n" in result.stdout, "through the dynamic linker's own command line",
      result.stdout + result.stderr)
finish()
