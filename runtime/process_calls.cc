// A way to make a process that passes by the handlers of fork(): clone(2) through its wrapper. A child made without them
// would find zeros where memory was evicted, so the library brings its handlers along. vfork and posix_spawn share their
// parent's memory, and its pager, until they exec.
#include <sched.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>

#include "runtime/dynamic_linker.h"
#include "runtime/export.h"
#include "runtime/fork.h"
#include "runtime/instance.h"

// The C library's own name for it.
extern "C" int __clone(int (*)(void*), void*, int, void*, ...) noexcept;

namespace polder::runtime {
namespace {

using Body = int (*)(void*);
using CloneFunction = int (*)(Body, void*, int, void*, ...);

CloneFunction next_clone() {
  void* const next = dlsym != nullptr ? dlsym(RTLD_NEXT, "clone") : nullptr;
  return next != nullptr ? reinterpret_cast<CloneFunction>(next) : __clone;
}

// What a cloned child starts with, on its parent's stack: a copy of its own, since it shares no memory.
struct Start {
  Body body;
  void* argument;
};

// The C library would end only the thread that returns here, and leave the process to its service threads.
int run_cloned(void* memory) {
  const Start start = *static_cast<const Start*>(memory);
  after_fork_in_child();
  _exit(start.body(start.argument));
}

}  // namespace
}  // namespace polder::runtime

using namespace polder::runtime;

extern "C" POLDER_EXPORT int clone(Body body, void* stack, int flags, void* argument, ...) noexcept {
  va_list rest;
  va_start(rest, argument);
  pid_t* const parent_id = va_arg(rest, pid_t*);
  void* const tls = va_arg(rest, void*);
  pid_t* const child_id = va_arg(rest, pid_t*);
  va_end(rest);
  const CloneFunction next = next_clone();
  if ((flags & CLONE_VM) != 0 || body == nullptr || stack == nullptr || !manager_runs()) {
    return next(body, stack, flags, argument, parent_id, tls, child_id);
  }
  Start start{.body = body, .argument = argument};
  before_fork();
  const int child = next(run_cloned, stack, flags, &start, parent_id, tls, child_id);
  const int error = errno;
  after_fork_in_parent();
  errno = error;
  return child;
}
