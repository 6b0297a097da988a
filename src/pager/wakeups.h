// Who waits for whom between allocating threads, the fault loop and the reclaimer, and how each is woken without a
// system call when nobody waits.
//
//   allocating thread   waits for room                 woken by room_changed()
//   fault loop          waits for room or for a page    woken by room_changed(), pages_settled() through its event
//                       in transition                   descriptor, only while it said that it waits
//   reclaimer           waits for work                  woken by kick_reclaimer()
//
// The event descriptor exists in the service threads' table only: room_changed() and pages_settled() are theirs alone, and
// a fault parked on a page that an allocating thread settles is retried by the loop's own timeout.
//
// Flags and sequence numbers are sequentially consistent: a waiter announces itself, then looks at its condition once
// more, then sleeps; a waker changes the condition, then looks for waiters.
#pragma once

#include <atomic>
#include <cstdint>

#include "os/file.h"
#include "os/mutex.h"

namespace polder {

class Wakeups {
 public:
  // Any thread.
  void kick_reclaimer() {
    if (reclaimer_asleep_.load() != 0 && reclaimer_asleep_.exchange(0) != 0) os::futex_wake_one(reclaimer_asleep_);
  }

  // Reclaimer only: sleep_begin(), look for work once more, then sleep() or sleep_cancel().
  void sleep_begin() { reclaimer_asleep_.store(1); }
  void sleep_cancel() { reclaimer_asleep_.store(0); }
  void sleep(int timeout_ms) {
    if (reclaimer_asleep_.load() != 0) os::futex_wait(reclaimer_asleep_, 1, timeout_ms);
    reclaimer_asleep_.store(0);
  }

  // Pages became free, or the outlook changed (limit, exhaustion).
  void room_changed() {
    room_sequence_.fetch_add(1);
    if (room_waiters_.load() != 0) os::futex_wake_all(room_sequence_);
    notify_fault_loop();
  }
  std::uint32_t room_sequence() const { return room_sequence_.load(); }
  // Announces the wait, lets `announced` act on it, and waits until the sequence is no longer `seen`.
  template <typename Announced>
  void wait_for_room(std::uint32_t seen, int timeout_ms, Announced announced) {
    room_waiters_.fetch_add(1);
    announced();
    os::futex_wait(room_sequence_, seen, timeout_ms);
    room_waiters_.fetch_sub(1);
  }
  bool room_is_wanted() const { return room_waiters_.load() != 0 || fault_loop_waits_.load(); }

  // Pages that faults may be parked on have left their transition.
  void pages_settled() { notify_fault_loop(); }

  // Fault loop only.
  void set_fault_loop_event(int fd) { event_ = fd; }
  void fault_loop_waits(bool waits) { fault_loop_waits_.store(waits); }

  void reset_in_child() {
    room_waiters_.store(0);
    reclaimer_asleep_.store(0);
    fault_loop_waits_.store(false);
    event_ = -1;
  }

 private:
  void notify_fault_loop() {
    if (fault_loop_waits_.load() && fault_loop_waits_.exchange(false)) os::signal_event(event_);
  }

  std::atomic<std::uint32_t> reclaimer_asleep_{0};
  std::atomic<std::uint32_t> room_sequence_{0};
  std::atomic<std::uint32_t> room_waiters_{0};
  std::atomic<bool> fault_loop_waits_{false};
  int event_ = -1;  // immutable once the service threads run; valid in their descriptor table only
};

}  // namespace polder
