// Children made by _Fork and by clone find every byte that their parent had, evicted or not, and can allocate, also more than
// their limit; so do many at once, where no descriptors are left. One that is made by a bare system call finds the right
// bytes, or SIGSEGV.
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

namespace {

constexpr std::size_t kStackSize = std::size_t{256} << 10;

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

void expect_right_bytes_or_none(const char* what) {
  const pid_t child = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
  if (child == 0) _exit(right() ? 0 : 3);
  int status = -1;
  waitpid(child, &status, 0);
  if (status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV)) return;
  std::printf("failed: %s, status %#x\n", what, static_cast<unsigned>(status));
  ++failures;
}

// More children at once than there may be descriptors, all of which the program has open.
void crowd() {
  constexpr int kDescriptors = 40;
  constexpr int kChildren = 60;
  int gate[2];
  rlimit usual;
  if (pipe(gate) != 0 || getrlimit(RLIMIT_NOFILE, &usual) != 0) std::abort();
  const rlimit few{kDescriptors, usual.rlim_max};
  setrlimit(RLIMIT_NOFILE, &few);
  std::vector<int> taken;
  for (int copy = dup(gate[0]); copy >= 0; copy = dup(gate[0])) taken.push_back(copy);
  pid_t children[kChildren];
  for (pid_t& child : children) {
    child = fork();
    if (child != 0) continue;
    close(gate[1]);
    char byte;
    if (read(gate[0], &byte, 1) != 0) _exit(5);
    for (std::size_t index = 0; index < objects.size(); index += 1000) {
      if (objects[index][1999] != (index * 3 & 0xff)) _exit(6);
    }
    _exit(0);
  }
  close(gate[1]);
  for (const pid_t child : children) expect_success(child, "one of many children");
  for (const int copy : taken) close(copy);
  close(gate[0]);
  rlimit after;
  if (getrlimit(RLIMIT_NOFILE, &after) != 0 || after.rlim_cur != few.rlim_cur || after.rlim_max != few.rlim_max) {
    std::printf("failed: the limit of descriptors changed\n");
    ++failures;
  }
  setrlimit(RLIMIT_NOFILE, &usual);
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
  char* const evicted_stack = static_cast<char*>(std::malloc(kStackSize));
  std::memset(evicted_stack, 1, kStackSize);
  fill();
  static char stack[kStackSize];
  for (int round = 0; round < 3; ++round) {
    const pid_t child = _Fork();
    if (child == 0) _exit(child_work(argument));
    expect_success(child, "_Fork");
    expect_success(clone(child_work, stack + sizeof stack, SIGCHLD, argument), "clone");
    // Next to nothing of it on the page where clone itself writes.
    const auto end = (reinterpret_cast<std::uintptr_t>(evicted_stack) + kStackSize - 4096) & ~std::uintptr_t{4095};
    expect_success(clone(child_work, reinterpret_cast<void*>(end + 64), SIGCHLD, argument),
                   "clone onto a stack of the heap");
    expect_right_bytes_or_none("clone as a bare system call");
    // As one does who has pinned a page for a device, and no longer needs it.
    const auto page = (reinterpret_cast<std::uintptr_t>(objects[1000]) + 4095) & ~std::uintptr_t{4095};
    madvise(reinterpret_cast<void*>(page), 4096, MADV_DONTFORK);
    madvise(reinterpret_cast<void*>(page), 4096, MADV_DOFORK);
  }
  crowd();
  // One table of descriptors for both.
  const pid_t related = clone(child_work, stack + sizeof stack, CLONE_FILES | SIGCHLD, argument);
  int status = -1;
  if (related > 0) waitpid(related, &status, 0);
  if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV)) {
    std::printf("failed: clone that shares descriptors, status %#x\n", static_cast<unsigned>(status));
    ++failures;
  }
  const pid_t sharing = clone(child_work, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, argument);
  expect_success(sharing, "clone sharing memory");
  if (!right()) ++failures;
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
