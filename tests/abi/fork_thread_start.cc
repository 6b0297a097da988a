// What glibc reads when a thread starts lives in the heap once a locale is set and a module with thread-local variables is
// loaded: evicted, it must be back before a forked child starts its pager. Run with a limit; argument: the module.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <clocale>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::size_t kBlock = std::size_t{1} << 20;
constexpr unsigned kBlocks = 96;
constexpr int kForks = 6;

// Neighbours of what glibc allocates, so that its pages are not kept by anything in use.
void* surround() {
  for (int i = 0; i < 4000; ++i) {
    if (std::malloc(static_cast<std::size_t>(i % 64) * 40 + 16) == nullptr) std::abort();
  }
  return nullptr;
}

// Writes several times the limit.
void press(char** blocks, int round) {
  for (unsigned i = 0; i < kBlocks; ++i) std::memset(blocks[i], static_cast<int>(i) + round, kBlock);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  surround();
  if (std::setlocale(LC_ALL, "C.UTF-8") == nullptr) return 3;
  void* const module = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) return 4;
  using Function = int (*)();
  const auto next = reinterpret_cast<Function>(dlsym(module, "next_of_this_thread"));
  if (next == nullptr || next() != 42) return 5;
  surround();
  char* blocks[kBlocks];
  for (char*& block : blocks) block = static_cast<char*>(std::malloc(kBlock));
  for (int round = 0; round < kForks; ++round) {
    press(blocks, round);
    const pid_t child = fork();
    if (child < 0) return 6;
    if (child == 0) {
      for (unsigned i = 0; i < kBlocks; i += 7) {
        if (blocks[i][round] != static_cast<char>(static_cast<int>(i) + round)) _exit(1);
      }
      _exit(next() == 43 ? 0 : 2);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) {
      std::fprintf(stderr, "child %d: %x\n", round, static_cast<unsigned>(status));
      return 1;
    }
  }
  return 0;
}
