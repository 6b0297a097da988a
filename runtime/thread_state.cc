#include "runtime/thread_state.h"

#include <pthread.h>
#include <atomic>

#include "base/check.h"
#include "os/thread.h"
#include "runtime/instance.h"

namespace polder::runtime {

POLDER_THREAD_LOCAL constinit thread_local ThreadState thread_state{.cache = ThreadCache::empty(),
                                                                    .set_aside = nullptr,
                                                                    .phase = ThreadPhase::fresh,
                                                                    .followed = false,
                                                                    .unevictable = 0};

namespace {

// The key whose destructor ends a thread's cache. Atomic: threads may race to create it. Release after the key is
// written pairs with acquire before it is read.
constinit pthread_key_t exit_key = 0;
enum KeyState : std::uint32_t { kNoKey, kCreatingKey, kKeyReady, kKeyRefused };
constinit std::atomic<std::uint32_t> exit_key_state{kNoKey};

void follow_under_limit(ThreadState& state) {
  if (state.followed || running_manager().memory_limit() == 0) return;
  state.followed = true;
  running_manager().thread_begins();
}

void end_following(ThreadState& state) {
  if (!state.followed) return;
  state.followed = false;
  running_manager().thread_ends();
}

void retire(void*) {
  ThreadState& state = thread_state;
  if (state.phase != ThreadPhase::caching) return;
  POLDER_CHECK(state.unevictable == 0, "thread ends inside an unevictable scope");
  ThreadCache* const cache = state.cache;
  state.cache = ThreadCache::empty();
  state.phase = ThreadPhase::retired;
  end_following(state);
  running_manager().heap().destroy_cache(cache);
}

// Creating a key neither allocates nor needs any initialisation of the C library's, but a thread that is not the main
// one proves that the latter is done.
bool exit_key_ready() {
  std::uint32_t state = exit_key_state.load(std::memory_order_acquire);
  if (state == kNoKey && exit_key_state.compare_exchange_strong(state, kCreatingKey, std::memory_order_acquire)) {
    state = pthread_key_create(&exit_key, retire) == 0 ? kKeyReady : kKeyRefused;
    exit_key_state.store(state, std::memory_order_release);
  }
  return state == kKeyReady;
}

// The destructor runs only for threads whose value is set. Setting it may call calloc once, which finds the cache there.
bool register_exit(ThreadCache* cache) { return exit_key_ready() && pthread_setspecific(exit_key, cache) == 0; }

// The main thread's cache from when its TLS was about to be overwritten with its initial contents (runtime/early_tls.cc).
// Used by that thread alone, before any other exists.
constinit ThreadCache* early_cache = nullptr;
constinit std::atomic<bool> constructed{false};  // relaxed: all that a thread that misses it loses is time

ThreadCache* create_or_find_cache(Heap& heap) {
  if (constructed.load(std::memory_order_relaxed)) return heap.create_cache();
  if (early_cache == nullptr) early_cache = heap.create_cache();
  return early_cache;
}

ThreadCache* create_cache() {
  ThreadState& state = thread_state;
  state.phase = ThreadPhase::creating;
  Manager& manager = start_manager();
  Heap& heap = manager.heap();
  // Once everything is constructed it is like any other; to ask takes two system calls.
  const bool early =
      !constructed.load(std::memory_order_relaxed) || exit_key_state.load(std::memory_order_acquire) != kKeyReady;
  const bool main_thread = early && os::thread_id() == os::process_id();
  ThreadCache* const cache = main_thread ? create_or_find_cache(heap) : heap.create_cache();
  if (cache == nullptr) {
    state.phase = ThreadPhase::fresh;  // tried again when there is memory
    return ThreadCache::empty();
  }
  state.cache = cache;
  state.phase = ThreadPhase::caching;
  follow_under_limit(state);
  if (main_thread && exit_key_state.load(std::memory_order_acquire) != kKeyReady) return cache;
  if (!register_exit(cache)) {
    // Nobody would flush it: the thread does without.
    state.cache = ThreadCache::empty();
    state.phase = ThreadPhase::retired;
    end_following(state);
    manager.heap().destroy_cache(cache);
  }
  return state.cache;
}

}  // namespace

ThreadCache* own_cache() {
  ThreadState& state = thread_state;
  if (state.phase == ThreadPhase::fresh && state.unevictable == 0) return create_cache();
  if (state.phase == ThreadPhase::caching) follow_under_limit(state);  // the limit may be new
  return state.cache;
}

ThreadCache* present_cache() {
  const ThreadState& state = thread_state;
  return state.unevictable != 0 ? state.set_aside : state.cache;
}

void prepare_thread_exit() {
  const ThreadState& state = thread_state;
  constructed.store(true, std::memory_order_relaxed);
  if (exit_key_ready() && state.phase == ThreadPhase::caching) register_exit(state.cache);
}

void UnevictableScope::enter() {
  ThreadState& state = thread_state;
  if (state.unevictable++ != 0) return;
  state.set_aside = state.cache;
  state.cache = ThreadCache::empty();
}

void UnevictableScope::leave() {
  ThreadState& state = thread_state;
  POLDER_CHECK(state.unevictable != 0, "unevictable scope left twice");
  if (--state.unevictable == 0) state.cache = state.set_aside;
}

}  // namespace polder::runtime
