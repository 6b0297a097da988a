// The library's constructors.
#include <atomic>
#include <cstdint>

#include "os/mapping.h"
#include "os/thread.h"
#include "runtime/dynamic_linker.h"
#include "runtime/foreign.h"
#include "runtime/instance.h"
#include "runtime/thread_state.h"

#if defined(POLDER_STATIC)
extern "C" [[gnu::weak]] unsigned int __nptl_nthreads;
#else
extern "C" char polder_start_up_code[];
extern "C" char polder_start_up_end[];
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

#if !defined(POLDER_STATIC)
// What has run is code of start-up, and code of larger allocations that other libraries' constructors made: 100 KiB that
// most small processes never need again. After frame_dummy, the compiler's constructor without a priority. A breakpoint
// that a debugger has set there goes as well, and comes back when the process stops next.
[[gnu::constructor]] void unload_start_up_code() {
  os::unload(polder_start_up_code, static_cast<std::size_t>(polder_start_up_end - polder_start_up_code));
}
#endif

}  // namespace
}  // namespace polder::runtime
