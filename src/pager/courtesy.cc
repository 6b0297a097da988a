#include "pager/courtesy.h"

#include <algorithm>

#include "os/mutex.h"

namespace polder {
namespace {

// After the loop had to be rescued: doubled when politeness did not pay, which takes a few times what starving costs.
// Beside something that runs now and then (30 times a second, say) the loop is polite in between; beside a busy loop,
// hardly ever.
constexpr std::uint64_t kLongestPauseNs = 4'000'000'000;
constexpr std::uint64_t kPaidNs = std::uint64_t{4} * Courtesy::kPatienceMs * 1'000'000;

}  // namespace

void Courtesy::attach() {
  thread_.store(os::thread_id());
  os::set_normal_io_priority();  // that of the idle class would otherwise follow from the class
}

void Courtesy::be_polite() {
  if (possible_.load(std::memory_order_relaxed) == 0 || state_.load() != kFirm) return;
  const std::uint64_t not_before = not_before_ns_.load(std::memory_order_relaxed);
  if (not_before != 0 && os::monotonic_ns() < not_before) return;
  // Watched first, then polite; if the guard has given up on us in between, not polite after all.
  state_.store(kPolite);
  os::futex_wake_one(state_);
  static_cast<void>(os::set_idle_class(0));
  if (state_.load() != kPolite) static_cast<void>(os::set_normal_class(0));
}

void Courtesy::be_firm() {
  std::uint32_t state = kPolite;
  if (state_.compare_exchange_strong(state, kFirming)) {
    static_cast<void>(os::set_normal_class(0));
    state_.store(kFirm);
  } else if (state == kFirming) {
    static_cast<void>(os::set_normal_class(0));  // the guard is at it, but may not have got far
  }
}

void Courtesy::guard() {
  // Tried on itself: a thread that cannot go back must not be the loop.
  if (!os::in_normal_class(0) || !os::set_idle_class(0) || !os::set_normal_class(0)) return;
  possible_.store(1);
  for (std::uint32_t state = state_.load(); state != kStopped; state = state_.load()) {
    if (state != kPolite && !os::in_idle_class(thread_.load())) {
      os::futex_wait(state_, state, -1);
      continue;
    }
    const std::uint32_t rounds = rounds_.load(std::memory_order_relaxed);
    const std::uint64_t since = os::monotonic_ns();
    os::futex_wait(state_, state, kPatienceMs);
    const bool waited = os::monotonic_ns() - since >= std::uint64_t{kPatienceMs} * 1'000'000;
    if (waited && rounds_.load(std::memory_order_relaxed) == rounds) force();
  }
  possible_.store(0);
}

void Courtesy::force() {
  std::uint32_t state = kPolite;
  const bool ours = state_.compare_exchange_strong(state, kFirming);
  const bool starved = os::thread_is_runnable(thread_.load());
  static_cast<void>(os::set_normal_class(thread_.load()));
  if (!ours) return;
  if (starved) {
    const std::uint64_t now = os::monotonic_ns();
    const bool again = now < not_before_ns_.load(std::memory_order_relaxed) + kPaidNs;
    pause_ns_ = again ? std::min(2 * pause_ns_, kLongestPauseNs) : kShortestPauseNs;
    not_before_ns_.store(now + pause_ns_, std::memory_order_relaxed);
  }
  state_.store(kFirm);
}

void Courtesy::stop() {
  be_firm();
  // The guard may be about to call the loop firm.
  std::uint32_t state = kFirm;
  while (!state_.compare_exchange_weak(state, kStopped)) state = kFirm;
  os::futex_wake_all(state_);
}

void Courtesy::reset_in_child() {
  state_.store(kFirm);
  possible_.store(0);
  thread_.store(0);
}

}  // namespace polder
