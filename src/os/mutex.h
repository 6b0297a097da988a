// Mutual exclusion on futexes, ranked (base/lock_rank.h). One word of state, no allocation, no pthread: usable before
// constructors have run, from service threads, and re-initialised in a forked child.
//
// Sources: U. Drepper, "Futexes Are Tricky" (2011), mutex 2.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/lock_rank.h"
#include "base/thread_annotations.h"

namespace polder::os {

class POLDER_CAPABILITY("mutex") Mutex {
 public:
  constexpr explicit Mutex(LockRank rank) : rank_(rank) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  // Spins briefly, then sleeps. Preserves errno. Debug builds abort when the thread holds a lock of this rank or
  // above.
  void lock() POLDER_ACQUIRE();
  bool try_lock() POLDER_TRY_ACQUIRE(true);
  void unlock() POLDER_RELEASE();

  // Takes a lock although one of the same rank may be held: the caller guarantees a total order among them.
  void lock_same_rank() POLDER_ACQUIRE();
  // fork only, in the child: the lock that the forking thread took is free again, its waiters do not exist here.
  void reset_in_child() POLDER_RELEASE();
  // fork only, in the child: a lock of other threads, held or not when the parent forked, is free.
  void abandon_in_child();

 private:
  void lock_slow();

  // 0 free, 1 held, 2 held and waited for. Acquire in lock pairs with release in unlock.
  std::atomic<std::uint32_t> state_{0};
  LockRank rank_;
};

class POLDER_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) POLDER_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() POLDER_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits while `word` holds `expected`, at most `timeout_ms` (negative: for ever). May return early; callers re-check
// their condition. Process-private. Preserves errno.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, int timeout_ms);
void futex_wake_one(std::atomic<std::uint32_t>& word);
void futex_wake_all(std::atomic<std::uint32_t>& word);

}  // namespace polder::os
