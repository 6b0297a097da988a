#include "pager/fault_loop.h"

#include <algorithm>
#include <memory>

#include "base/check.h"
#include "os/cgroup.h"
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
  may_spin_ = !os::cpu_is_rationed();
  return kOk;
}

void FaultLoop::run() {
  courtesy_.attach();
  static_cast<void>(os::set_time_slice(kSliceNs));
  engine_->receive(parts_.uffd.fd(), messages_, sizeof messages_, kFaultsTag);
  engine_->receive(event_, &event_count_, sizeof event_count_, kEventTag);
  while (!stopping_.load(std::memory_order_relaxed)) {
    courtesy_.round();
    filler_.look_after_reads();
    if (!serve_completions() && parked_count_ != 0) retry_parked();
    sleep();
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

// True when there was something to do. Faults first: the disk works on their reads while reads that are complete are
// installed.
bool FaultLoop::serve_completions() {
  os::IoCompletion completions[kBatch];
  os::Fault faults[kBatch];
  std::size_t fault_count = 0;
  unsigned transfers = 0;
  const unsigned count = engine_->reap(completions, kBatch);
  for (unsigned i = 0; i < count; ++i) {
    if (completions[i].tag == kFaultsTag) {
      POLDER_CHECK(completions[i].error.ok(), "reading faults", completions[i].error.code());
      fault_count = parts_.uffd.parse_faults(messages_, completions[i].bytes, faults);
      engine_->receive(parts_.uffd.fd(), messages_, sizeof messages_, kFaultsTag);
    } else if (completions[i].tag == kEventTag) {
      engine_->receive(event_, &event_count_, sizeof event_count_, kEventTag);
    } else {
      completions[transfers++] = completions[i];
    }
  }
  if (fault_count != 0) serve_new_faults({faults, fault_count});
  if (fault_count != 0 && transfers != 0) engine_->submit();
  for (unsigned i = 0; i < transfers; ++i) {
    if (Evictor::is_write(completions[i].tag)) {
      evictor_.write_completed(completions[i]);
    } else {
      filler_.read_completed(completions[i]);
    }
  }
  return count != 0;
}

void FaultLoop::serve_new_faults(std::span<const os::Fault> faults) {
  const std::uint64_t now = os::monotonic_ns();
  for (const os::Fault& fault : faults) {
    note_faulter(fault.thread);
    serve(Parked{.fault = fault, .since_ns = now, .why = Resolution::done});
  }
  count_alone(parts_.statistics->pager.faults, faults.size());
  if (parts_.budget.free() < parts_.budget.watermarks().low) parts_.wakeups.kick_reclaimer();
}

void FaultLoop::serve(const Parked& parked) {
  const Resolution resolution = try_resolve(parked.fault);
  if (resolution == Resolution::done) {
    count_alone(parts_.statistics->pager.fill_wait_ns, os::monotonic_ns() - parked.since_ns);
    return;
  }
  courtesy_.be_firm();
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
  const bool reclaims = fault.thread != 0 && fault.thread == reclaimer_thread_.load(std::memory_order_relaxed);
  if (!parts_.arena.contains(address) || reclaims) {
    // What is being stored is there; zeros in its place would be stored instead.
    POLDER_CHECK(!reclaims || parts_.arena.contains(address), "staged pages stay where they are", fault.address);
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
    freed = evictor_.process_oldest_locked(*engine_, kEngineDepth - Evictor::kMaxExtents - Filler::kMaxReads).freed;
  }
  evictor_.mutex().unlock();
  return freed.value != 0;
}

void FaultLoop::note_faulter(std::uint32_t thread) {
  ++faults_since_look_;
  if (thread == faulter_) {
    ++in_a_row_;
    return;
  }
  faulter_ = thread;
  in_a_row_ = 0;
  courtesy_.be_firm();
}

void FaultLoop::follow() {
  if (faults_since_look_ == 0) return;
  faults_since_look_ = 0;
  std::uint32_t cpu = 0;
  const bool known = cpus_.cpu_of(faulter_, &cpu);
  bool together = known && cpu == own_cpu_.load(std::memory_order_relaxed);
  if (known && !together && ++elsewhere_ >= 2) {
    // Announced first: the reclaimer makes way, where a polite loop could not even finish its move.
    const std::uint32_t before = own_cpu_.exchange(cpu, std::memory_order_relaxed);
    together = os::run_on_cpu(cpu);
    if (!together) own_cpu_.store(before, std::memory_order_relaxed);
  }
  if (together) elsewhere_ = 0;
  if (together && in_a_row_ >= kLone && parked_count_ == 0) courtesy_.be_polite();
}

// Waits until there is something to do. The thread that was just woken needs this CPU: nothing is done here that the next
// round does not need, and one system call submits and waits.
void FaultLoop::sleep() {
  const bool reads = filler_.reads_outstanding() != 0;
  // While the device works there is time for what the fault need not wait for; otherwise it is taken now and then.
  if (reads) engine_->submit();
  if (reads || faults_since_look_ >= kFaultsPerLook) follow();
  if (parked_count_ == 0) {
    const std::uint64_t typical = filler_.typical_read_ns();
    const bool spin = may_spin_ && reads && courtesy_.polite() && typical < kFastReadNs;
    if (spin && engine_->spin(2 * typical)) return;
    return engine_->wait(filler_.patience_ms());
  }
  // Announce, look once more, sleep: a change between the two looks leaves the event signalled.
  parts_.wakeups.fault_loop_waits(true);
  if (!retry_parked()) return engine_->wait(kParkedWaitMs);
  parts_.wakeups.fault_loop_waits(false);
  engine_->wait(0);
}

void FaultLoop::reset_in_child() {
  // What the parent's service threads opened is not in this process.
  engine_ = nullptr;
  std::construct_at(&pagemap_);
  event_ = -1;
  parked_count_ = 0;
  own_cpu_.store(kAnyCpu, std::memory_order_relaxed);
  elsewhere_ = 0;
  faulter_ = 0;
  exhausted_.store(false, std::memory_order_relaxed);
}

}  // namespace polder
