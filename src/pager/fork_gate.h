// The handshake of a fork with the reclaimer. The forking thread asks; the reclaimer finishes what it does, takes the
// evictor's mutex, prepares what the child needs, and stands still until the fork is over. Faults are served all along.
//
//   idle ─ask─► asked ─► ready ─over─► over ─► idle
//
// One fork at a time: forking threads queue on a claim. Memory is unevictable; waits are on the state word.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/errno.h"
#include "os/mutex.h"
#include "pager/wakeups.h"
#include "store/store.h"

namespace polder {

class ForkGate {
 public:
  struct Inheritance {
    int fds[Store::kMaxInherited] = {};  // in the service threads' descriptor table
    unsigned count = 0;
    Errno error;
  };

  // Forking thread. Returns when eviction stands still.
  const Inheritance& ask(Wakeups& wakeups) {
    std::uint32_t expected = kIdle;
    while (!state_.compare_exchange_strong(expected, kAsked)) {
      os::futex_wait(state_, expected, 10);
      expected = kIdle;
    }
    while (state_.load() == kAsked) {
      wakeups.kick_reclaimer();
      os::futex_wait(state_, kAsked, 50);
    }
    return inheritance_;
  }
  // Forking thread, in the parent.
  void over(Store::ForkOutcome outcome) {
    outcome_ = outcome;
    state_.store(kOver);
    os::futex_wake_all(state_);
  }

  // Reclaimer.
  bool asked() const { return state_.load() == kAsked; }
  Inheritance& inheritance() { return inheritance_; }
  // Publishes the inheritance and waits for over(); what became of the fork.
  Store::ForkOutcome stand_still() {
    state_.store(kReady);
    os::futex_wake_all(state_);
    while (state_.load() != kOver) os::futex_wait(state_, kReady, -1);
    const Store::ForkOutcome outcome = outcome_;
    state_.store(kIdle);
    os::futex_wake_all(state_);
    return outcome;
  }

  void reset_in_child() { state_.store(kIdle); }

 private:
  enum : std::uint32_t { kIdle, kAsked, kReady, kOver };

  std::atomic<std::uint32_t> state_{kIdle};
  Inheritance inheritance_;  // the reclaimer's until ready, then the forking thread's to read
  Store::ForkOutcome outcome_ = Store::ForkOutcome::forked;
};

}  // namespace polder
