// _Fork(3), which passes by the handlers of fork() as clone does (process_calls.cc).
//
// In the static library it is a member of its own, for programs that call it. In one that is linked statically the
// definition that this one calls could not be reached, and its child would read zeros for what is evicted: so it does not
// link, for want of __tls_get_addr, which only the dynamic linker has.
//
// It may be called from signal handlers, where no lock may be taken; as long as nothing has ever been evicted the child
// only notes that it is a process of its own. Once the pager runs, a handler that interrupts malloc and calls _Fork can wait for ever.
#include <dlfcn.h>
#include <sys/types.h>
#include <cerrno>

#include "runtime/export.h"
#include "runtime/fork.h"
#include "runtime/instance.h"

using namespace polder::runtime;

#if defined(POLDER_STATIC)
extern "C" void* __tls_get_addr(void*);
[[gnu::used]] static void* (*const dynamically_linked_only)(void*) = __tls_get_addr;
#endif

extern "C" POLDER_EXPORT pid_t _Fork() noexcept {
  using Function = pid_t (*)();
  static constinit Function next = nullptr;
  if (next == nullptr) next = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "_Fork"));
  if (!manager_runs()) return next();
  if (!running_manager().pager().armed()) {
    const pid_t child = next();
    if (child == 0) running_manager().begin_in_bare_child();
    return child;
  }
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
