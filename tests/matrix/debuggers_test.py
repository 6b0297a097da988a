"""gdb attaching to a program that pages, gdb with the library in itself, strace of a program, and strace with the library."""

import pathlib
import re
import signal
import subprocess

import matrix
from matrix import LIBRARY, check, cleanup, compare, describe, find

SOURCE = r"""
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
enum { kBlocks = 640, kSize = 128 << 10 };
static char* blocks[kBlocks];
volatile int rounds = 0, stop = 0;
static void on_signal(int number) { stop = number; }
static int checked(int round) {
  for (int i = 0; i < kBlocks; i++)
    for (int at = 0; at < kSize; at += 4096)
      if (blocks[i][at] != (char)(i + at / 4096 + at % 251)) { printf("wrong: %d %d in round %d\n", i, at, round); return 0; }
  return 1;
}
static void* wait_here(void* name) { while (!stop) usleep(1000); return name; }
int main(void) {
  signal(SIGTERM, on_signal);
  pthread_t thread;
  pthread_create(&thread, NULL, wait_here, "waiter");
  for (int i = 0; i < kBlocks; i++) {
    blocks[i] = malloc(kSize);
    for (int at = 0; at < kSize; at++) blocks[i][at] = (char)(i + at / 4096 + at % 251);
  }
  puts("ready"); fflush(stdout);
  while (!stop) { if (!checked(rounds)) return 1; rounds++; }
  pthread_join(thread, NULL);
  printf("right: %s\n", rounds > 0 ? "every round" : "no round");
  return 0;
}
"""


def gdb_attaches(scratch, program, memory, tight):
    """Again and again, while the program runs through its blocks; its bytes stay right, and gdb sees its threads."""
    name, stats = f"gdb attaching [{memory or 'no limit'}]", scratch / "stats.json"
    variables = matrix.harness.environment(preload=False, LC_ALL="C", HOME=str(scratch))
    with cleanup.start([*matrix.polder_run(memory, stats), program], env=variables, stdout=subprocess.PIPE,
                       text=True) as process:
        check(process.stdout.readline() == "ready\n", f"{name}: the program starts")
        text = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        target = int(text.split()[0])
        rounds = []
        for _ in range(3):
            output = matrix.client([find("gdb"), "-nx", "-batch", "-p", str(target), "-ex", "info threads", "-ex",
                                    "thread apply all bt 8", "-ex", "print rounds", "-ex", "print blocks[3] != 0", "-ex",
                                    "detach"], stderr=subprocess.DEVNULL, timeout=30) or ""
            check("wait_here" in output and re.search(r"\bmain \(", output), f"{name}: stacks of both threads", output)
            check(matrix.pages(target) == tight, f"{name}: pager", output)
            rounds += re.findall(r"^\$1 = (\d+)$", output, flags=re.MULTILINE)
            matrix.cleanup.time.sleep(0.3)
        check(len(rounds) == 3 and int(rounds[0]) <= int(rounds[2]), f"{name}: the program's variable", rounds)
        check(matrix.has_library(target), f"{name}: the library is there")
        cleanup.os.kill(target, signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        check((process.returncode, out) == (0, "right: every round\n"), f"{name}: the program's end",
              describe(subprocess.CompletedProcess(program, process.returncode)) + "\n" + out)
    matrix.check_stats(name, matrix.read_stats(stats), memory, tight)


with matrix.session() as scratch:
    source, program = scratch / "program.c", scratch / "program"
    source.write_text(SOURCE)
    subprocess.run([find("gcc"), "-g", "-O1", "-pthread", source, "-o", program], check=True)
    for limit in (matrix.UNLIMITED, matrix.ROOMY, "32M"):
        gdb_attaches(scratch, program, limit, limit == "32M")

    # gdb itself on malloc: all the library's symbols, types and lines.
    gdb = [find("gdb"), "-nx", "-batch", "-ex", "set pagination off", "-ex", "set print thread-events off", "-ex",
           "set print inferior-events off", "-ex", "set env LD_PRELOAD=",
           "-ex", "set env LD_DEBUG="]
    compare(scratch, "gdb with the library", [*gdb, "-ex", "info line malloc", "-ex", "info types Manager", "-ex",
                                              "ptype struct polder::PageWord", "-ex", "list polder::Heap::allocate", LIBRARY],
            tight="16M", same_errors=False)
    compare(scratch, "gdb runs a program", [*gdb, "-ex", "break checked", "-ex", "run", "-ex", "print i", "-ex",
                                            "print blocks[639][kSize - 1]", "-ex", "kill", program], same_errors=False)

    # strace with the library in tracer and traced; the calls of a program are in the order they were made.
    words = [find("strace"), "-f", "-qq", "-e", "trace=openat,execve", "-o", "trace", find("sh"), "-c",
             "cat /etc/hostname > copy; wc -c < copy | tr -d ' '; rm trace || true"]
    compare(scratch, "strace", words, witnesses=("strace", "sh", "cat", "wc"))
    trace = subprocess.run([find("strace"), "-f", "-qq", "-e", "trace=execve", *matrix.polder_run(None, scratch / "stats.json"),
                            "/bin/echo", "seen"], capture_output=True, text=True, check=False,
                           env=matrix.harness.environment(preload=False))
    check(trace.returncode == 0 and trace.stdout == "seen\n" and 'execve("/bin/echo"' in trace.stderr,
          "strace of a program with the library", trace.stderr)
matrix.finish()
