#!/usr/bin/env python3
"""Checks the order of the layers (src/README.md): includes point downwards, and system calls are made in src/os alone.

The command in runtime/cli is a program of its own and may do as it likes. The check is proved on planted violations
before it is believed.
"""

import os
import re
import sys
import tempfile
import unittest
from pathlib import Path

# Equal ranks are rooms side by side: they do not know each other.
RANKS = {"base": 0, "os": 1, "vm": 2, "heap": 3, "store": 3, "pager": 4, "region": 5, "manager": 6, "runtime": 7}

# libc's wrappers and what else enters the kernel.
SYSTEM_CALLS = frozenset("""
    syscall mmap mmap64 munmap mremap mprotect madvise process_madvise mlock mlock2 mlockall munlock munlockall msync
    mincore brk sbrk memfd_create shm_open shm_unlink userfaultfd membarrier
    open open64 openat openat64 creat close close_range read write pread pread64 pwrite pwrite64 readv writev preadv
    pwritev preadv2 pwritev2 lseek lseek64 stat fstat lstat fstatat statfs fstatfs statvfs fstatvfs access faccessat
    unlink unlinkat rename link mkdir rmdir readlink fsync fdatasync sync sync_file_range ftruncate truncate fallocate
    posix_fallocate posix_fadvise copy_file_range sendfile splice ioctl fcntl dup dup2 dup3 pipe pipe2 eventfd
    poll ppoll select pselect epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait timerfd_create signalfd
    socket socketpair connect accept bind listen send recv sendmsg recvmsg
    fork vfork _Fork clone clone3 execve execv execvp execvpe fexecve posix_spawn posix_spawnp wait waitpid wait4 waitid
    kill tgkill raise pidfd_open pidfd_getfd getpid getppid gettid getuid geteuid futex futex_waitv
    sched_yield sched_setaffinity sched_getaffinity sched_getcpu sched_setscheduler sched_getscheduler getcpu
    pthread_create pthread_setaffinity_np pthread_sigmask pthread_kill sigaction sigprocmask sigaltstack signal
    nanosleep clock_nanosleep clock_gettime gettimeofday usleep sleep getrandom getentropy getrlimit setrlimit prlimit
    getrusage prctl arch_prctl uname sysinfo sysconf ptrace process_vm_readv process_vm_writev mbind set_mempolicy
    io_uring_setup io_uring_enter io_uring_register
""".split())

# Headers whose only use is to enter the kernel.
KERNEL_HEADERS = re.compile(r"linux/.*|asm/.*|liburing.*|syscall\.h|sys/(syscall|ioctl|epoll|eventfd|prctl)\.h")

# (file, call): why it is right there.
ALLOWED = {}

KEYWORDS = frozenset("return else do case throw co_return co_await and or not new delete goto".split())

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
IGNORED = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])*\'',
    re.DOTALL)
CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
ASM = re.compile(r"\b(?:asm|__asm__)\b[^;]*\b(?:syscall|svc)\b", re.DOTALL)


def blank(match):
    """Keeps the lines of what is taken out."""
    return " " + "\n" * match.group(0).count("\n")


def previous_token(text, position):
    """The identifier or the operator that ends before `position`, and where it starts."""
    end = position
    while end > 0 and text[end - 1].isspace():
        end -= 1
    start = end
    if start > 0 and (text[start - 1].isalnum() or text[start - 1] == "_"):
        while start > 0 and (text[start - 1].isalnum() or text[start - 1] == "_"):
            start -= 1
    elif text[max(0, end - 2):end] in ("::", "->", "&&", "||"):
        start = end - 2
    elif end > 0:
        start = end - 1
    return text[start:end], start


def is_declaration(text, position):
    """`int read(` and `void* mmap(` declare or define, `x = read(` and `return read(` call."""
    token, _ = previous_token(text, position)
    if token in ("*", "&"):
        return True
    return bool(re.fullmatch(r"[A-Za-z_]\w*|>", token)) and token not in KEYWORDS


def declared(text):
    """Functions of our own that are called as a system call is: methods, mostly."""
    return {m.group(1) for m in CALL.finditer(text) if m.group(1) in SYSTEM_CALLS and is_declaration(text, m.start())}


def calls(text, own):
    """(name, position) of every call of an unqualified or globally qualified system call."""
    for match in CALL.finditer(text):
        name = match.group(1)
        if name not in SYSTEM_CALLS or is_declaration(text, match.start()):
            continue
        token, start = previous_token(text, match.start())
        if token in (".", "->"):
            continue
        if token == "::":
            qualifier, _ = previous_token(text, start)
            if re.fullmatch(r"[A-Za-z_]\w*|>", qualifier) and qualifier not in KEYWORDS:
                continue  # os::close, Pagemap::open
        elif name in own:
            continue
        yield name, match.start()


def layer_of(path):
    """The layer of a file, by its path from the root."""
    parts = path.parts
    if parts[0] == "src":
        return parts[1] if len(parts) > 2 else None
    return "runtime"


def check_file(root, path):
    relative = path.relative_to(root)
    if relative.parts[:2] == ("runtime", "cli"):
        return
    layer = layer_of(relative)
    source = path.read_text(encoding="utf-8")

    def complaint(position, what):
        return f"{relative}:{source.count(chr(10), 0, position) + 1}: {what}"

    if layer not in RANKS:
        yield f"{relative}:1: lies in no layer"
        return
    for match in INCLUDE.finditer(source):
        kind, name = match.groups()
        target = name.split("/")[0]
        if layer != "os" and kind == "<" and KERNEL_HEADERS.fullmatch(name):
            yield complaint(match.start(), f"<{name}> is for src/os alone")
        if target in RANKS and "/" in name:
            if target != layer and RANKS[target] >= RANKS[layer]:
                yield complaint(match.start(), f"{layer} may not include {name}")
            elif kind == "<":
                yield complaint(match.start(), f"<{name}> is our own: quote it")
        elif kind == '"' and not (layer == "runtime" and target == "polder"):
            yield complaint(match.start(), f'"{name}" names no layer')
    if layer == "os":
        return
    if ASM.search(source):
        yield complaint(ASM.search(source).start(), "system call in assembly outside src/os")
    code = IGNORED.sub(blank, source)
    header = path.with_suffix(".h")
    own = declared(code)
    if path.suffix == ".cc" and header.exists():
        own |= declared(IGNORED.sub(blank, header.read_text(encoding="utf-8")))
    for name, position in calls(code, own):
        if (str(relative), name) not in ALLOWED:
            line = code.count("\n", 0, position) + 1
            yield f"{relative}:{line}: {name}() outside src/os"


def check(root):
    complaints = []
    for folder in ("src", "runtime"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cc", ".c", ".inc"):
                complaints.extend(check_file(root, path))
    return complaints


class PlantedViolations(unittest.TestCase):
    """The check sees what it is there to see, and nothing else."""

    def complaints(self, path, text):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            (root / path).parent.mkdir(parents=True)
            (root / path).write_text(text, encoding="utf-8")
            return check(root)

    def assert_caught(self, path, text, what):
        found = self.complaints(path, text)
        self.assertEqual(len(found), 1, f"{path}: {text!r} gave {found}")
        self.assertIn(what, found[0])

    def assert_clean(self, path, text):
        self.assertEqual(self.complaints(path, text), [])

    def test_includes(self):
        self.assert_caught("src/vm/a.h", '#include "pager/parts.h"', "vm may not include pager")
        self.assert_caught("src/base/a.h", '\n#include "os/file.h"', "a.h:2: base may not include os")
        self.assert_caught("src/heap/a.cc", '#include "store/store.h"', "heap may not include store")
        self.assert_caught("src/store/a.cc", '  #  include  "heap/heap.h"', "store may not include heap")
        self.assert_caught("src/manager/a.cc", '#include "runtime/options.h"', "manager may not include runtime")
        self.assert_caught("src/heap/a.cc", '#include "slab.h"', "names no layer")
        self.assert_caught("src/vm/a.cc", "#include <base/units.h>", "quote it")
        self.assert_caught("src/attic/a.cc", "", "lies in no layer")
        self.assert_caught("src/vm/a.cc", "#include <linux/userfaultfd.h>", "src/os alone")
        self.assert_caught("src/store/a.cc", "#include <liburing.h>", "src/os alone")
        self.assert_clean("src/pager/a.cc", '#include "pager/b.h"\n#include "store/c.h"\n#include <atomic>')
        self.assert_clean("src/manager/a.cc", '#include "pager/b.h"\n#include "heap/d.h"')
        self.assert_clean("src/os/a.cc", "#include <liburing.h>\n#include <sys/syscall.h>")
        self.assert_clean("runtime/a.cc", '#include "manager/manager.h"\n#include "runtime/b.h"')
        self.assert_clean("runtime/a.cc", '#include "polder/polder.h"')

    def test_system_calls(self):
        for call in ("mmap(nullptr, 1, 2, 3, -1, 0)", "::munmap(p, n)", "syscall(SYS_futex, word)", "madvise(p, n, 4)",
                     "open(path, 0)", "read(fd, p, n)", "sched_yield ()", "gettid()", "fork()", "ioctl(fd, 1)"):
            name = call.split("(")[0].strip(": ")
            self.assert_caught("src/vm/a.cc", f"void f() {{ {call}; }}", f"{name}() outside src/os")
            self.assert_caught("src/pager/a.cc", f"int f() {{\n  return {call};\n}}", "a.cc:2:")
            self.assert_caught("runtime/a.cc", f"int f() {{ const int r = {call}; return r; }}", name)
            self.assert_caught("src/heap/a.h", f"inline bool f() {{ return !({call} == 0 && true); }}", name)
            self.assert_clean("src/os/a.cc", f"void f() {{ {call}; }}")
            self.assert_clean("runtime/cli/a.cc", f"void f() {{ {call}; }}")
        self.assert_caught("src/vm/a.cc", 'void f() { asm volatile("syscall"); }', "assembly")
        self.assert_caught("src/vm/a.cc", "void f() {\n  x = true ? close(3) : 0; /* close(4) */\n}", "a.cc:2: close()")

    def test_what_is_no_system_call(self):
        for text in (
                "// read(fd)\n/* mmap(\n) */",
                'const char* kText = "open(2) failed";',
                "void f() { os::close(fd); }",
                "void f() { polder::os::futex_wait(w); }",
                "void f() { engine->read(fd); file.write(p); }",
                "class File { void open(int fd); };",
                'extern "C" int madvise(void* p, size_t n, int advice) { return os::discard(p, n); }',
                "void* mmap(void* address, size_t n);",
                "Result<int> open(const char* path);",
                "template <typename T> bool read(T& value);\nbool g() { return read(x); }",
                "int reopen(int); void f() { reopen(1); }",
                "constexpr char kQuote = '\"'; void f() { do_read(1'000'000); }",
        ):
            self.assert_clean("src/pager/a.cc", text)

    def test_methods_declared_in_the_header(self):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            (root / "src/pager").mkdir(parents=True)
            (root / "src/pager/loop.h").write_text("class Loop { void sleep(); void run(); };")
            (root / "src/pager/loop.cc").write_text("void Loop::run() { sleep(); }\nvoid Loop::sleep() {}\n")
            (root / "src/pager/other.cc").write_text("void f() { sleep(1); }\n")
            self.assertEqual(check(root), ["src/pager/other.cc:1: sleep() outside src/os"])

    def test_global_qualification_is_not_hidden_by_an_own_function(self):
        self.assert_caught("runtime/a.cc", "int madvise(void* p) { return ::madvise(p); }", "madvise()")


def main():
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(PlantedViolations)
    if not unittest.TextTestRunner(verbosity=0).run(suite).wasSuccessful():
        return 1
    root = Path(os.environ.get("POLDER_SOURCE_DIR", Path(__file__).resolve().parents[2]))
    complaints = check(root)
    for complaint in complaints:
        print(complaint)
    print(f"{len(complaints)} violations in {root}" if complaints else "layers: clean")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
