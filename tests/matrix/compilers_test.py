"""gcc, g++ and clang on this project's own sources: the same objects, and programs of them that run."""

import pathlib

import matrix
from matrix import LIBRARY, SOURCE, compare, find

INCLUDES = ["-std=c++20", f"-I{SOURCE}", f"-I{SOURCE}/src", f"-I{SOURCE}/include"]
LARGE = """
#include <map>
#include <string>
#include <vector>
#include <regex>
#include <algorithm>
template <int N> struct Chain { static std::map<int, std::vector<std::string>> make() {
  auto m = Chain<N - 1>::make(); m[N].push_back(std::to_string(N)); return m; } };
template <> struct Chain<0> { static std::map<int, std::vector<std::string>> make() { return {}; } };
int main() {
  auto m = Chain<60>::make();
  std::regex number("([0-9])\\\\1");
  int n = 0;
  for (auto& [key, words] : m) n += std::regex_search(words[0], number) ? key : 1;
  return n == 0;
}
"""

with matrix.session() as scratch:
    clang, gxx = find("clang++-14"), find("g++")
    options, buddy = pathlib.Path(SOURCE, "runtime", "options.cc"), pathlib.Path(SOURCE, "src", "vm", "buddy.cc")
    large, plain = scratch / "large.cc", scratch / "plain.c"
    large.write_text(LARGE)
    plain.write_text('#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n')

    compare(scratch, "gcc, linked and run", [find("sh"), "-c", f"gcc -O2 -flto -o program '{plain}' && ./program"],
            witnesses=("cc1", "as", "collect2", "ld", "lto1", "program"))
    compare(scratch, "g++", [gxx, "-O2", "-g", *INCLUDES, "-c", buddy, "-o", "buddy.o"], witnesses=("cc1plus", "as"))
    compare(scratch, "clang++", [clang, "-O2", "-g", *INCLUDES, "-c", options, "-o", "options.o"])
    compare(scratch, "clang, linked and run", [find("sh"), "-c", f"clang-14 -O2 -o program '{plain}' && ./program"],
            witnesses=("clang-14", "ld", "program"))
    # The compiler proper, since the driver only starts it.
    frontend = pathlib.Path(find("clang++-14")).resolve().parent / "clang"
    resources = "/usr/lib/llvm-14/lib/clang/14.0.6"
    folders = ["/usr/include/c++/12", "/usr/include/x86_64-linux-gnu/c++/12", f"{resources}/include",
               "/usr/include/x86_64-linux-gnu", "/usr/include"]
    includes = [word for folder in folders for word in ("-internal-isystem", folder)]
    compare(scratch, "clang -cc1", [frontend, "-cc1", "-triple", "x86_64-pc-linux-gnu", "-emit-obj", "-O1", "-std=c++20",
                                    "-resource-dir", resources, *includes, "-fcxx-exceptions", "-fexceptions", "-x", "c++",
                                    large, "-o", "large.o"], tight="48M")
    # The linker and its friends, over what has much debugging information.
    compare(scratch, "ld -r", [find("ld"), "-r", "--whole-archive", "-o", "all.o",
                               pathlib.Path(matrix.BUILD, "lib", "libpolder_heap.a")])
    compare(scratch, "objdump", [find("objdump"), "-dC", "--no-show-raw-insn", LIBRARY])
matrix.finish()
