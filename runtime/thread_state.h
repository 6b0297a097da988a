// What the library keeps per thread: three words of TLS, with which no access ever allocates
// (base/thread_local.h).
//
//   cache        the heap's cache of this thread, or ThreadCache::empty(): the only word that malloc and free look at.
//                Their fast paths miss with the empty cache, so everything unusual is recognised in the slow paths
//   phase        fresh → creating → caching → retired. Threads begin fresh (memory comes from the loader's TLS image); the
//                first slow path makes the cache; the pthread key's destructor gives it back at thread exit. What later
//                destructors allocate and free goes to the heap's central lists directly
//   followed     the pager knows where the thread runs: from its first slow path under a limit on, as that takes a system call
//   unevictable  how many UnevictableScopes are open: the thread's allocations come from the metadata pool while not 0
//
// Owned by its thread alone; no locks.
#pragma once

#include <cstdint>

#include "base/thread_local.h"
#include "heap/thread_cache.h"

namespace polder::runtime {

enum class ThreadPhase : std::uint8_t { fresh, creating, caching, retired };

struct ThreadState {
  ThreadCache* cache;
  ThreadCache* set_aside;  // the cache, while a scope hides it
  ThreadPhase phase;
  bool followed;
  std::uint32_t unevictable;
};

POLDER_THREAD_LOCAL extern constinit thread_local ThreadState thread_state;

// The thread's cache, made if this is its first need of one. ThreadCache::empty() where it has none: at thread exit, in
// an UnevictableScope, and when there is no memory for one. Starts the library if need be. Preserves errno.
ThreadCache* own_cache();

// The thread's cache if it has one by now, also where an UnevictableScope hides it; ThreadCache::empty() otherwise.
ThreadCache* present_cache();

// From the constructor on the main thread's exit works like any other's: its cache may be older than the C library's
// readiness for that.
void prepare_thread_exit();

// While one exists, everything that the thread allocates through the C interface is unevictable (runtime/unevictable.h):
// around calls that make the C library allocate what service threads, or a forked child's first steps, will touch.
// Scopes nest.
class UnevictableScope {
 public:
  UnevictableScope() { enter(); }
  ~UnevictableScope() { leave(); }
  UnevictableScope(const UnevictableScope&) = delete;
  UnevictableScope& operator=(const UnevictableScope&) = delete;

  // The two halves, as hooks for lower layers.
  static void enter();
  static void leave();
};

}  // namespace polder::runtime
