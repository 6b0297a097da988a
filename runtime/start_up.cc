// The library's constructor.
#include <atomic>
#include <cstdint>

#include "os/thread.h"
#include "runtime/dynamic_linker.h"
#include "runtime/foreign.h"
#include "runtime/instance.h"
#include "runtime/thread_state.h"

#if defined(POLDER_STATIC)
extern "C" [[gnu::weak]] unsigned int __nptl_nthreads;
#endif

namespace polder::runtime {
namespace {

// glibc ends the process with its last thread (nptl/pthread_create.c); the counter has no public name, but in a program
// that is linked with it.
void find_thread_count() {
#if defined(POLDER_STATIC)
  void* const counter = &__nptl_nthreads;
#else
  void* const counter = dlsym(RTLD_DEFAULT, "__nptl_nthreads");
#endif
  os::set_thread_count(static_cast<std::atomic<std::uint32_t>*>(counter));
}

// Where malloc is replaced the manager normally runs by now, since the dynamic linker allocates. Priority 101 is the first
// that programs may use.
[[gnu::constructor(101)]] void start_up() {
  start_manager().allow_threads();
  prepare_thread_exit();
  find_thread_count();
  find_c_library();
}

}  // namespace
}  // namespace polder::runtime
