// Allocating threads ask the reclaimer to make pageblocks managed: only service threads own the userfaultfd. A small
// table of requests in unevictable memory; the asker sleeps on its entry.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/errno.h"
#include "base/units.h"
#include "os/mutex.h"
#include "pager/wakeups.h"

namespace polder {

class BlockRequests {
 public:
  // Allocating thread: waits until blocks [first, first + count) are managed; the refusal otherwise.
  Errno ask(BlockId first, BlockCount count, Wakeups& wakeups) {
    Request& request = claim();
    request.first = first;
    request.count = count;
    request.state.store(kPosted);  // sequentially consistent with the reclaimer's sleep_begin()
    while (request.state.load() == kPosted) {
      wakeups.kick_reclaimer();
      os::futex_wait(request.state, kPosted, 50);
    }
    const Errno error = request.error;
    request.state.store(kFree);
    return error;
  }

  // Reclaimer: serves every posted request with `convert(first, count)`; true when there was one.
  template <typename Convert>
  bool serve(Convert convert) {
    bool served = false;
    for (Request& request : requests_) {
      if (request.state.load() != kPosted) continue;
      request.error = convert(request.first, request.count);
      request.state.store(kAnswered);
      os::futex_wake_all(request.state);
      served = true;
    }
    return served;
  }

  bool any() const {
    for (const Request& request : requests_) {
      if (request.state.load() == kPosted) return true;
    }
    return false;
  }

  void reset_in_child() {
    for (Request& request : requests_) request.state.store(kFree);
  }

 private:
  enum : std::uint32_t { kFree, kClaimed, kPosted, kAnswered };

  struct Request {
    std::atomic<std::uint32_t> state{kFree};
    BlockId first;  // the claimer's, then the reclaimer's to read
    BlockCount count;
    Errno error;  // the reclaimer's, then the claimer's to read
  };

  Request& claim() {
    for (std::uint32_t i = 0;; ++i) {
      Request& request = requests_[i % requests_.size()];
      std::uint32_t expected = kFree;
      if (request.state.compare_exchange_strong(expected, kClaimed)) return request;
      if (i % requests_.size() == requests_.size() - 1) os::futex_wait(request.state, expected, 1);
    }
  }

  std::array<Request, 32> requests_;
};

}  // namespace polder
