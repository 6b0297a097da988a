// The fault loop's manners: while one thread alone faults, the loop runs in the scheduler's idle class (sched(7),
// SCHED_IDLE) on that thread's CPU. Two things make a fault shorter then:
//
//   the thread stays   a CPU that runs nothing but the idle class counts as free, so the thread that the loop wakes goes on
//                      where it is. Woken by a normal thread it is sent to another CPU, which has to be woken too, and so
//                      has the loop at the next fault
//   no halting         the loop may look for its read's completion instead of sleeping, at nobody's cost: a CPU that halted
//                      takes 15 µs longer
//
// Measured (2 vCPU, objects read at twice the limit): a fault 86 µs without, 57 with it.
//
// The idle class may starve, so a guard thread watches: a polite loop that does no round within kPatienceMs is made firm
// again (its old class) from outside. Where that is refused (no CAP_SYS_NICE and RLIMIT_NICE below 20) the loop is never
// polite. The loop itself turns firm before it waits for anything, or takes a lock that reclaim needs for longer than list
// work.
//
//   firm ──be_polite()──> polite ──be_firm() or the guard──> firming ──> firm
#pragma once

#include <atomic>
#include <cstdint>

#include "os/thread.h"

namespace polder {

class Courtesy {
 public:
  static constexpr int kPatienceMs = 3;
  // A loop that starved is not polite again before that; longer where it starved again soon after.
  static constexpr std::uint64_t kShortestPauseNs = 10'000'000;

  // --- fault loop ---

  // On the loop's thread, before anything else here.
  void attach();
  void be_polite();
  void be_firm();
  bool polite() const { return state_.load(std::memory_order_relaxed) == kPolite; }
  // The loop is alive.
  void round() { rounds_.store(rounds_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

  // --- guard thread ---

  // Its body, until stop(). Returns at once where a thread that was polite could not become firm.
  void guard();
  // From the loop's thread: never polite again.
  void stop();

  void reset_in_child();

 private:
  enum State : std::uint32_t { kFirm, kPolite, kFirming, kStopped };

  void force();

  std::atomic<std::uint32_t> state_{kFirm};      // futex: the guard sleeps on it
  std::atomic<std::uint32_t> possible_{0};       // the guard is on duty
  std::atomic<std::uint32_t> rounds_{0};         // written by the loop
  std::atomic<std::uint32_t> thread_{0};         // the loop's kernel thread id
  std::atomic<std::uint64_t> not_before_ns_{0};  // written by the guard: no politeness until then
  std::uint64_t pause_ns_ = 0;                   // the guard's: last pause, doubled where starvation follows soon
};

}  // namespace polder
