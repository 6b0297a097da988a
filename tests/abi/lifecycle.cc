// Allocation before main, after main and around fork: constructors, atexit handlers, destructors, children made by them.
#include <sys/wait.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

const char* early_block();
int early_prepared();

namespace {

std::vector<std::string>* strings = nullptr;

[[gnu::constructor]] void construct() {
  strings = new std::vector<std::string>;
  for (int index = 0; index < 1000; ++index) strings->push_back(std::string(static_cast<std::size_t>(index), 'c'));
}

struct Global {
  std::string text = std::string(500, 'g');
  ~Global() {
    text += std::string(5000, 'h');
    std::printf("global: %zu\n", text.size());
  }
} global;

int child_of(const char* where) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    std::string text(100000, 'f');
    text += strings->back();
    std::printf("child of %s: %zu\n", where, text.size());
    std::fflush(stdout);
    _exit(7);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void at_exit() {
  std::printf("atexit: child %d\n", child_of("atexit"));
  strings->push_back(std::string(1 << 20, 'x'));
  std::printf("atexit: %zu strings\n", strings->size());
}

[[gnu::destructor]] void destruct() {
  std::printf("destructor: child %d\n", child_of("destructor"));
  delete strings;
}

}  // namespace

int main() {
  std::atexit(at_exit);
  std::printf("main: %s, %zu strings\n", early_block(), strings->size());
  const int status = child_of("main");
  std::printf("main: child %d, prepared %d\n", status, early_prepared());
  return 0;
}
