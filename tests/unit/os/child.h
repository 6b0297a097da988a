// Parts of a test that must run in a process of their own: with other privileges, limits, mounts, system calls refused,
// or threads and descriptors nobody else should see.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "os/thread.h"

#if defined(__SANITIZE_THREAD__)
// Children start threads although their parent had some.
extern "C" [[gnu::used]] inline const char* __tsan_default_options() { return "die_after_fork=0"; }
#endif

namespace polder::test {

// The exit status of a child that could not set the scene; its test is skipped.
inline constexpr int kNotPossibleHere = 77;
inline constexpr int kSignalled = 1000;

// Whether any other thread of this process runs, or would if it had a CPU.
inline bool others_run() {
  const std::uint32_t self = os::thread_id();
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    const auto thread = static_cast<std::uint32_t>(std::atoi(entry.path().filename().c_str()));
    if (thread != self && os::thread_is_runnable(thread)) return true;
  }
  return false;
}

// fork(2), for a child that allocates or starts threads. The address sanitizer's allocator stays locked in the child for
// ever if a thread was within it at that moment, as threads are that have just been started or are about to end: wait
// until they all sleep.
inline pid_t fork_while_others_sleep() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  for (int tries = 0; tries < 5000 && others_run(); ++tries) os::sleep_ms(1);
#endif
  return fork();
}

// Runs `body` in a forked child: what it returned, or kSignalled plus the signal that ended it.
template <typename Body>
int in_child(Body body) {
  std::fflush(nullptr);
  const pid_t child = fork_while_others_sleep();
  if (child == 0) _exit(body());
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? kSignalled + WTERMSIG(status) : WEXITSTATUS(status);
}

// From now on this process is nobody, without a way back.
inline bool drop_privileges() {
  constexpr unsigned kNobody = 65534;
  if (geteuid() != 0) return true;
  return syscall(SYS_setgroups, 0, nullptr) == 0 && setgid(kNobody) == 0 && setuid(kNobody) == 0;
}

// A tmpfs of its own, seen by this process alone, on the (existing) directory.
inline bool mount_private_tmpfs(const char* directory, const char* options, unsigned long flags = 0) {
  return unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("polder-test", directory, "tmpfs", flags, options) == 0;
}

// From now on system call `number` fails with `error` in this thread and those it starts; when `mask` is not 0, only if
// the argument (its low half) has all bits of the mask.
inline bool refuse(long number, int error, unsigned argument = 0, std::uint32_t mask = 0) {
  const auto offset = static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * argument);
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, mask, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (static_cast<std::uint32_t>(error) & SECCOMP_RET_DATA)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{sizeof code / sizeof code[0], code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// Checks that a scope leaves the thread's errno alone.
class ErrnoWitness {
 public:
  ErrnoWitness() { errno = kMark; }
  bool untouched() const { return errno == kMark; }

 private:
  static constexpr int kMark = 12345;
};

}  // namespace polder::test

// Ends a child's body with the number of the line whose expectation failed (modulo 70, so that 77 stays free).
#define CHILD_EXPECT(condition)                                                   \
  do {                                                                            \
    if (!(condition)) {                                                           \
      std::fprintf(stderr, "%s:%d: child: %s\n", __FILE__, __LINE__, #condition); \
      return 1 + __LINE__ % 70;                                                   \
    }                                                                             \
  } while (false)

// The outcome of in_child().
#define EXPECT_CHILD_OK(...)                                                                   \
  do {                                                                                         \
    const int child_status = (__VA_ARGS__);                                                    \
    if (child_status == ::polder::test::kNotPossibleHere) GTEST_SKIP() << "not possible here"; \
    EXPECT_EQ(child_status, 0);                                                                \
  } while (false)
