"""What the library exports and what it needs: exactly the symbols of runtime/libpolder.map, and nothing but libc. The hot
paths of malloc and free hold neither locked instructions nor calls."""

import os
import re
import subprocess

from harness import LIBRARY, SOURCE, check, finish


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


with open(os.path.join(SOURCE, "runtime", "libpolder.map")) as file:
    text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
listed = set(re.findall(r"^\s*([A-Za-z_]\w*);", text.split("global:")[1].split("local:")[0], flags=re.MULTILINE))

exported = set()
for line in output("nm", "-D", "--defined-only", LIBRARY).splitlines():
    exported.add(line.split()[-1].split("@")[0])
check(exported == listed, "exported symbols", f"missing: {sorted(listed - exported)}\nunexpected: {sorted(exported - listed)}")
operators = [name for name in exported if re.match(r"_Z(nw|na|dl|da)", name)]
check(len(operators) == 20, "the twenty operators", sorted(operators))

needed = set(re.findall(r"\(NEEDED\)\s+Shared library: \[(.*?)\]", output("readelf", "-d", LIBRARY)))
check("libc.so.6" in needed and needed <= {"libc.so.6", "ld-linux-x86-64.so.2"}, "needed libraries", sorted(needed))

tls = [line for line in output("readelf", "-r", LIBRARY).splitlines() if "DTPMOD" in line or "TLSDESC" in line]
check(not tls, "thread-local storage is initial-exec", "\n".join(tls))

version = re.search(r"project\(polder VERSION ([\d.]+)", open(os.path.join(SOURCE, "CMakeLists.txt")).read()).group(1)
header = open(os.path.join(SOURCE, "include", "polder", "polder.h")).read()
check(f'#define POLDER_VERSION "{version}"' in header, "the header has the project's version", version)

# An unoptimised build calls everything; recognise it by malloc keeping a frame pointer.
code = {}
for block in output("objdump", "-d", "--no-show-raw-insn", LIBRARY).split("\n\n"):
    name = re.match(r"[0-9a-f]+ <(\w+)>:", block)
    if name:
        code[name.group(1)] = block
if "push   %rbp" not in code["malloc"]:
    for name in ("malloc", "free", "_Znwm", "_ZdlPv"):
        body = code[name]
        count = len(re.findall(r"^\s+[0-9a-f]+:", body, flags=re.MULTILINE))
        check("lock " not in body and "xchg" not in body.replace("xchg   %ax,%ax", ""), f"{name} is not atomic", body)
        check("call" not in body, f"{name} calls nothing", body)
        check(count < 60, f"{name} is short", f"{count} instructions")
finish()
