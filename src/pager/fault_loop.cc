#include "pager/fault_loop.h"

#include <memory>

#include "base/check.h"
#include "os/thread.h"

namespace polder {

Errno FaultLoop::prepare(os::IoBackend backend) {
  const Result<os::IoEngine*> engine = os::make_io_engine(engine_storage_, backend, kEngineDepth);
  if (!engine.ok()) return engine.error;
  engine_ = engine.value;
  const Errno opened = pagemap_.open();
  if (!opened.ok()) return opened;
  const Result<int> event = os::make_event();
  if (!event.ok()) return event.error;
  event_ = event.value;
  parts_.wakeups.set_fault_loop_event(event_);
  filler_.attach(*engine_, pagemap_);
  return kOk;
}

void FaultLoop::run() {
  unsigned ready = kFaultsReady | kCompletionsReady;
  while (!stopping_.load(std::memory_order_relaxed)) {
    bool worked = false;
    if ((ready & kFaultsReady) != 0) worked |= serve_new_faults();
    engine_->submit();
    if ((ready & kCompletionsReady) != 0) worked |= serve_completions();
    if (parked_count_ != 0 && !worked) retry_parked();
    ready = sleep();
  }
  engine_->~IoEngine();
  engine_ = nullptr;
  pagemap_.close();
  os::close(event_);
}

void FaultLoop::stop() {
  stopping_.store(true, std::memory_order_relaxed);
  os::signal_event(event_);
}

bool FaultLoop::serve_new_faults() {
  os::Fault faults[kBatch];
  const std::size_t count = parts_.uffd.read_faults(faults, kBatch);
  if (count == 0) return false;
  const std::uint64_t now = os::monotonic_ns();
  for (std::size_t i = 0; i < count; ++i) serve(Parked{.fault = faults[i], .since_ns = now, .why = Resolution::done});
  count_alone(parts_.statistics->pager.faults, count);
  follow(faults[count - 1].thread);
  if (parts_.budget.free() < parts_.budget.watermarks().low) parts_.wakeups.kick_reclaimer();
  return true;
}

void FaultLoop::serve(const Parked& parked) {
  const Resolution resolution = try_resolve(parked.fault);
  if (resolution == Resolution::done) {
    count_alone(parts_.statistics->pager.fill_wait_ns, os::monotonic_ns() - parked.since_ns);
    return;
  }
  if (resolution == Resolution::no_room) parts_.wakeups.kick_reclaimer();
  if (parked_count_ == kMaxParked) {
    // Waking the thread makes it fault, and queue, again.
    parts_.uffd.wake(reinterpret_cast<void*>(parked.fault.address), kPageSize);
    return;
  }
  parked_[parked_count_] = parked;
  parked_[parked_count_++].why = resolution;
}

Resolution FaultLoop::try_resolve(const os::Fault& fault) {
  const void* const address = reinterpret_cast<const void*>(fault.address);
  if (!parts_.arena.contains(address) ||
      (fault.thread != 0 && fault.thread == reclaimer_thread_.load(std::memory_order_relaxed))) {
    filler_.plug(fault.address);
    return Resolution::done;
  }
  const PageId page = parts_.arena.page_of(address);
  switch (parts_.blocks.mode(block_of(page))) {
    case BlockMode::managed:
      return filler_.resolve(page, fault);
    case BlockMode::converting:
      return Resolution::transition;
    case BlockMode::unused:
    case BlockMode::native:
      // The registration was taken back while the message waited.
      parts_.uffd.wake(parts_.arena.address(page), kPageSize);
      return Resolution::done;
  }
  POLDER_CHECK(false, "mode of a pageblock", page.value);
}

bool FaultLoop::serve_completions() {
  os::IoCompletion completions[kBatch];
  const unsigned count = engine_->reap(completions, kBatch);
  for (unsigned i = 0; i < count; ++i) {
    if (Evictor::is_write(completions[i].tag)) {
      evictor_.write_completed(completions[i]);
    } else {
      filler_.read_completed(completions[i]);
    }
  }
  if (count != 0) engine_->submit();  // reads that are tried again
  return count != 0;
}

// Tries every parked fault once. True when one was resolved, or room was made for one.
bool FaultLoop::retry_parked() {
  const std::uint32_t count = parked_count_;
  parked_count_ = 0;
  bool lacks_room = false;
  const std::uint64_t now = os::monotonic_ns();
  for (std::uint32_t i = 0; i < count; ++i) {
    const Parked parked = parked_[i];  // serve() may park it again, at or below i
    if (parked.why == Resolution::no_room && exhausted_.load(std::memory_order_relaxed) &&
        now - parked.since_ns > kGiveUpNs) {
      filler_.give_up(parts_.arena.page_of(reinterpret_cast<const void*>(parked.fault.address)));
    }
    serve(parked);
  }
  for (std::uint32_t i = 0; i < parked_count_; ++i) lacks_room |= parked_[i].why == Resolution::no_room;
  engine_->submit();
  return parked_count_ < count || (lacks_room && reclaim_directly());
}

// Direct reclaim: a fault has no room and nobody else holds the evictor. True when pages became free.
bool FaultLoop::reclaim_directly() {
  if (!evictor_.mutex().try_lock()) return false;
  PageCount freed = evictor_.retire_written_locked();
  if (freed.value == 0) {
    if (parts_.staging.staged() == 0) evictor_.stage_victims_locked();
    freed = evictor_.process_oldest_locked(*engine_, kEngineDepth - Filler::kMaxReads).freed;
  }
  evictor_.mutex().unlock();
  return freed.value != 0;
}

void FaultLoop::follow(std::uint32_t thread) {
  if (elsewhere_ == 0 && ++faults_since_look_ < 8) return;
  faults_since_look_ = 0;
  std::uint32_t cpu = 0;
  if (!cpus_.cpu_of(thread, &cpu) || cpu == own_cpu_) {
    elsewhere_ = 0;
    return;
  }
  if (++elsewhere_ < 2) return;
  elsewhere_ = 0;
  if (os::run_on_cpu(cpu)) own_cpu_ = cpu;
}

// Waits until there is something to do and says what. The thread that was just woken needs this CPU: nothing is done
// here that the next round does not need.
unsigned FaultLoop::sleep() {
  if (parked_count_ != 0) {
    // Announce, look once more, sleep: a change between the two looks leaves the event signalled.
    parts_.wakeups.fault_loop_waits(true);
    if (retry_parked()) {
      parts_.wakeups.fault_loop_waits(false);
      return kFaultsReady | kCompletionsReady;
    }
  }
  const int fds[] = {parts_.uffd.fd(), engine_->completion_fd(), event_};
  const unsigned ready = os::poll_readable(fds, 3, parked_count_ != 0 ? 20 : -1);
  if ((ready & kEventReady) != 0) os::drain_event(event_);
  return ready;
}

void FaultLoop::reset_in_child() {
  // What the parent's service threads opened is not in this process.
  engine_ = nullptr;
  std::construct_at(&pagemap_);
  event_ = -1;
  parked_count_ = 0;
  own_cpu_ = ~std::uint32_t{0};
  elsewhere_ = 0;
  exhausted_.store(false, std::memory_order_relaxed);
}

}  // namespace polder
