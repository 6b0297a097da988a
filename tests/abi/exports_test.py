"""What the libraries export and what they need: exactly the symbols of their version scripts, and nothing but libc. The hot
paths of malloc and free hold neither locked instructions nor calls, and what every process runs lies together."""

import os
import re
import subprocess

from harness import LIBRARY, SOURCE, check, finish


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def listed_in(version_script):
    with open(os.path.join(SOURCE, "runtime", version_script)) as file:
        text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
    return set(re.findall(r"^\s*([A-Za-z_]\w*);", text.split("global:")[1].split("local:")[0], flags=re.MULTILINE))


def compare(what, found, listed):
    check(found == listed, what, f"missing: {sorted(listed - found)}\nunexpected: {sorted(found - listed)}")


def exported_by(library):
    return {line.split()[-1].split("@")[0] for line in output("nm", "-D", "--defined-only", library).splitlines()}


def needed_by(library):
    return set(re.findall(r"\(NEEDED\)\s+Shared library: \[(.*?)\]", output("readelf", "-d", library)))


FOLDER = os.path.dirname(LIBRARY)
BESIDE = os.path.join(FOLDER, "libpolder-dl.so")
ARCHIVE = os.path.join(FOLDER, "libpolder.a")
C_LIBRARY = {"libc.so.6", "ld-linux-x86-64.so.2"}

exported = exported_by(LIBRARY)
compare("exported symbols", exported, listed_in("libpolder.map"))
compare("exported symbols of the library for dlopen", exported_by(BESIDE), listed_in("libpolder-dl.map"))
operators = [name for name in exported if re.match(r"_Z(nw|na|dl|da)", name)]
check(len(operators) == 20, "the twenty operators", sorted(operators))

for library in (LIBRARY, BESIDE):
    needed = needed_by(library)
    check("libc.so.6" in needed and needed <= C_LIBRARY, f"needed by {library}", sorted(needed))

# The archive has the same names; operators where only C++ programs find them, all of which a program may
# define itself. What its members need of each other is hidden.
members = {}
for line in output("nm", "-A", "--format=posix", "--defined-only", "--extern-only", ARCHIVE).splitlines():
    member, name, kind = re.match(r".*\[(.*?)\]: (\S+) (\S)", line).groups()
    members.setdefault(member, {})[name] = kind
check(sorted(members) == ["fork_call.o", "malloc.o", "operators.o"], "members of the archive", sorted(members))
own = {name for symbols in members.values() for name in symbols if name.startswith("_ZN6polder")}
names = {name for symbols in members.values() for name in symbols} - own
compare("symbols of the archive", names, listed_in("libpolder.map"))
operators = {name for name in names if re.match(r"_Z(nw|na|dl|da)", name)}
compare("operators of the archive", operators, set(members["operators.o"]))
check(set(members["operators.o"].values()) == {"W"}, "operators of the archive are weak", members["operators.o"])
hidden = {line.split()[-1] for line in output("readelf", "-sW", ARCHIVE).splitlines() if " HIDDEN " in line}
check(own <= hidden, "what members need of each other is hidden", sorted(own - hidden))

tls = [line for line in output("readelf", "-r", LIBRARY).splitlines() if "DTPMOD" in line or "TLSDESC" in line]
check(not tls, "thread-local storage is initial-exec", "\n".join(tls))

check("STATIC_TLS" in output("readelf", "-d", LIBRARY), "the library for preloading has static thread-local storage")
check("STATIC_TLS" not in output("readelf", "-d", BESIDE), "the library for dlopen has none")

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

    # runtime/layout.ld: code of every kind is a segment of its own, the first three are small, and what is run at start-up
    # begins on a page behind the first. Debuggers need a .text.
    for library in (LIBRARY, BESIDE):
        headers = output("readelf", "-SlW", library)
        sizes = {name: int(size, 16) for name, size in
                 re.findall(r"(\.text\S*)\s+PROGBITS\s+[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+)", headers)}
        start_up = int(re.search(r"^([0-9a-f]+) . polder_start_up_code$", output("nm", library), flags=re.MULTILINE).group(1), 16)
        check(sizes[".text.first"] < 40 << 10 and sizes[".text.second"] <= 16 << 10 and sizes[".text.third"] <= 24 << 10,
              "sizes of code that is run", sizes)
        start_up_end = int(re.search(r"^([0-9a-f]+) . polder_start_up_end$", output("nm", library), flags=re.MULTILINE).group(1), 16)
        written_from = int(re.search(r"GNU_RELRO\s+0x[0-9a-f]+ 0x([0-9a-f]+)", headers).group(1), 16)
        check(start_up < start_up_end <= written_from, "what is unloaded ends before what is written",
              (hex(start_up_end), hex(written_from)))
        check(start_up % (64 << 10) <= 28 << 10, "size of the code that every process runs", hex(start_up))
        segments = [line.split()[1:] for line in re.findall(r"^\s+\d\d\s.* \.text\b.*$", headers, flags=re.MULTILINE)]
        check([segment[-1] for segment in segments] == [".text.first", ".text.second", ".text.third", ".text"] and
              all(len(segment) == 1 for segment in segments[1:]), "each kind of code is a segment", segments)
        # So is what every process writes to; few touch .bss.seldom.
        written = {name: int(size, 16) for name, size in
                   re.findall(r"(\.data|\.bss)\s+(?:PROGBITS|NOBITS)\s+[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+)", headers)}
        check(sum(written.values()) <= 12 << 10, "sizes of variables", written)
        relocated = re.search(r"GNU_RELRO(?:\s+0x[0-9a-f]+){4}\s+0x([0-9a-f]+)", headers).group(1)
        check(int(relocated, 16) <= 4 << 10, "what the dynamic linker writes is a page", relocated)

    def resident_code(*command):
        smaps = output("env", f"LD_PRELOAD={LIBRARY}", *command)
        return [int(size) for size in
                re.findall(r" r-xp .*libpolder[^\n]*\n(?:[A-Z]\w+:.*\n)*?Rss:\s+(\d+) kB", smaps)]

    # A shell that reads a file calls malloc, realloc and free, once for a buffer of 8 KiB: nothing of the library's code but
    # the first two segments, without what is run at start-up.
    resident = resident_code("sh", "-c", 'while read -r line; do echo "$line"; done < /proc/self/smaps')
    check(len(resident) == 4 and 0 < resident[0] <= 28 and 0 < resident[1] <= 16 and resident[2:] == [0, 0],
          "what every process runs is in the first two segments", resident)
    # Texts of up to 60 KB come and go: what is free of their pages is purged.
    script = """for my $n (1..60) { my @texts = map { "x" x ($n * 1000 + $_ * 7) } 1..200; @texts = (); }
                open my $maps, "<", "/proc/self/smaps"; print <$maps>;"""
    resident = resident_code("perl", "-e", script)
    check(len(resident) == 4 and resident[2] > 0 and resident[3] == 0, "the third segment is enough for memory to spare",
          resident)
    # A text that doubles to 64 MiB and more moves by its page-table entries, once the blocks it outgrows are large.
    script = """my $text = "x"; $text .= $text for 1..26; open my $maps, "<", "/proc/self/smaps"; print <$maps>;"""
    resident = resident_code("perl", "-e", script)
    check(len(resident) == 4 and resident[3] == 0, "the third segment is enough for what grows and moves", resident)
finish()
