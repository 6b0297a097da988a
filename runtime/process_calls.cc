// A way to make a process that passes by the handlers of fork(): clone(2) through its wrapper. A child made without them
// would not find the memory that can be evicted (pager/converter.h), so the library brings its handlers along. vfork and
// posix_spawn share their parent's memory, and its pager, until they exec.
#include <sched.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>

#include "base/units.h"
#include "os/mapping.h"
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

// Whether it is in the heap, and there, now that it was looked at.
bool is_resident(const void* address) {
  constexpr std::uintptr_t kInWord = sizeof(std::uint64_t) - 1;
  const auto* const word = reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(address) & ~kInWord);
  return arena_pointers.contains(word) && os::is_readable(word);
}

// What the child uses before its pager runs, of the heap: the stack, as far down as it needs then, or whatever there is of
// it, as nobody has said how long it is; and where the kernel notes the child's id.
void make_start_resident(const void* stack, const void* child_id) {
  if (!running_manager().pager().armed()) return;
  constexpr unsigned kPages = 8;
  static_cast<void>(is_resident(child_id));
  const char* byte = static_cast<const char*>(stack) - 1;
  for (unsigned i = 0; i < kPages && is_resident(byte); ++i) byte -= kPageSize;
}

// The C library would end only the thread that returns here, and leave the process to its service threads.
int run_cloned(void* memory) {
  const Start start = *static_cast<const Start*>(memory);
  after_fork_in_child();
  _exit(start.body(start.argument));
}

// A child that pages by itself, if at all.
int run_bare(void* memory) {
  const Start start = *static_cast<const Start*>(memory);
  running_manager().begin_in_bare_child();
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
  if ((flags & CLONE_FILES) != 0) {
    // Where both have one table of descriptors, none can be handed on: what can be evicted is not there for the child.
    if (running_manager().pager().armed()) return next(body, stack, flags, argument, parent_id, tls, child_id);
    return next(run_bare, stack, flags, &start, parent_id, tls, child_id);
  }
  const void* const id = (flags & (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID)) != 0 ? child_id : nullptr;
  make_start_resident(stack, id);
  before_fork();
  make_start_resident(stack, id);  // without waiting for room
  const int child = next(run_cloned, stack, flags, &start, parent_id, tls, child_id);
  const int error = errno;
  after_fork_in_parent();
  errno = error;
  return child;
}
