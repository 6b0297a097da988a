// Children made by _Fork and by clone find every byte that their parent had, evicted or not, and can allocate, also more than
// their limit.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

namespace {

std::vector<unsigned char*> objects;

bool right() {
  for (std::size_t index = 0; index < objects.size(); ++index) {
    for (const std::size_t offset : {std::size_t{0}, std::size_t{999}, std::size_t{1999}}) {
      if (objects[index][offset] != (index * 3 & 0xff)) return false;
    }
  }
  return true;
}

int child_work(void* argument) {
  if (std::strcmp(static_cast<const char*>(argument), "argument") != 0) return 2;
  if (!right()) return 3;
  for (int round = 0; round < 1000; ++round) {
    void* const memory = std::malloc(10000);
    std::memset(memory, round, 10000);
    std::free(memory);
  }
  return right() ? 0 : 4;
}

void fill() {
  for (std::size_t index = 0; index < 42'000; ++index) {
    objects.push_back(static_cast<unsigned char*>(std::malloc(2000)));
    std::memset(objects.back(), static_cast<int>(index * 3 & 0xff), 2000);
  }
}

int failures = 0;

void expect_success(pid_t child, const char* what) {
  int status = -1;
  if (child > 0) waitpid(child, &status, 0);
  if (status == 0) return;
  std::printf("failed: %s, status %#x\n", what, static_cast<unsigned>(status));
  ++failures;
}

}  // namespace

int main() {
  static char argument[] = "argument";
  const pid_t early = _Fork();
  if (early == 0) {
    fill();
    _exit(child_work(argument));
  }
  expect_success(early, "_Fork before anything is evicted");
  fill();
  static char stack[256 << 10];
  for (int round = 0; round < 3; ++round) {
    const pid_t child = _Fork();
    if (child == 0) _exit(child_work(argument));
    expect_success(child, "_Fork");
    expect_success(clone(child_work, stack + sizeof stack, SIGCHLD, argument), "clone");
  }
  const pid_t sharing = clone(child_work, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, argument);
  expect_success(sharing, "clone sharing memory");
  if (!right()) ++failures;
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
