// Ways to make a process that pass by the handlers of fork(): _Fork(3), and clone(2) through its wrapper. A child made
// without them would find zeros where memory was evicted, so the library brings its handlers along. vfork and posix_spawn
// share their parent's memory, and its pager, until they exec.
//
// _Fork may be called from signal handlers, where no lock may be taken; as long as nothing has ever been evicted it is left
// alone. Once the pager runs, a handler that interrupts malloc and calls _Fork can wait for ever.
#include <dlfcn.h>
#include <sched.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>

#include "runtime/export.h"
#include "runtime/fork.h"
#include "runtime/instance.h"

namespace polder::runtime {
namespace {

using ForkFunction = pid_t (*)();
using Body = int (*)(void*);
using CloneFunction = int (*)(Body, void*, int, void*, pid_t*, void*, pid_t*);

template <typename Function>
Function next_definition(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
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

extern "C" POLDER_EXPORT pid_t _Fork() noexcept {
  static constinit ForkFunction next = nullptr;
  if (next == nullptr) next = next_definition<ForkFunction>("_Fork");
  if (!manager_runs() || !running_manager().pager().armed()) return next();
  before_fork();
  const pid_t child = next();
  const int error = errno;
  if (child == 0) {
    after_fork_in_child();
  } else {
    after_fork_in_parent();
  }
  errno = error;
  return child;
}

extern "C" POLDER_EXPORT int clone(Body body, void* stack, int flags, void* argument, ...) noexcept {
  va_list rest;
  va_start(rest, argument);
  pid_t* const parent_id = va_arg(rest, pid_t*);
  void* const tls = va_arg(rest, void*);
  pid_t* const child_id = va_arg(rest, pid_t*);
  va_end(rest);
  const auto next = next_definition<CloneFunction>("clone");
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
