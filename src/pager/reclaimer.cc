#include "pager/reclaimer.h"

#include <algorithm>
#include <cerrno>

#include "os/thread.h"

namespace polder {
namespace {

constexpr std::uint64_t kRetrySwapNs = 1'000'000'000;
constexpr std::uint32_t kBatchesPerConversion = 32;
// Beyond these, nothing is gained but a queue in front of somebody's read: a virtual disk's ring holds five writes of scattered
// pages, and a read that found it full was measured to wait 12 ms.
constexpr unsigned kWritesInFlight = 3;
constexpr std::uint64_t kHouseKeepingNs = 500'000'000;
constexpr std::uint64_t kSpareSlots = 4096;  // 16 MiB

Patience::Time time_now() { return {os::monotonic_ns(), os::thread_cpu_ns()}; }

}  // namespace

Errno Reclaimer::prepare(os::IoBackend backend) {
  const Result<os::IoEngine*> engine = os::make_io_engine(engine_storage_, backend, kEngineDepth);
  if (!engine.ok()) return engine.error;
  engine_ = engine.value;
  return kOk;
}

void Reclaimer::run() {
  fault_loop_.set_reclaimer_thread(os::thread_id());
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (forks_.asked()) serve_fork();
    attend_();
    bool worked =
        requests_.serve([this](BlockId first, BlockCount count) { return converter_.convert_range(first, count); });
    worked |= reap();
    publish_gauges(parts_);
    house_keeping();
    if (pressed()) {
      const bool progress = reclaim_batch();
      note_progress(progress);
      if (progress) continue;
    } else {
      reclaiming_ = false;
      patience_.renew(time_now());
      if (exhausted()) note_progress(true);
    }
    if (!worked) rest();
  }
  while (engine_->outstanding() != 0) {
    engine_->wait(-1);
    reap();
  }
  engine_->~IoEngine();
  engine_ = nullptr;
  fault_loop_.stop();
}

void Reclaimer::want(PageCount pages) {
  std::uint64_t wanted = wanted_.load(std::memory_order_relaxed);
  while (wanted < pages.value && !wanted_.compare_exchange_weak(wanted, pages.value)) {
  }
}

PageCount Reclaimer::target() const {
  const Watermarks marks = parts_.budget.watermarks();
  const PageCount wanted{wanted_.load(std::memory_order_relaxed)};
  return std::max(marks.high, wanted.value == 0 ? PageCount{0} : wanted + marks.low);
}

bool Reclaimer::pressed() const {
  const PageCount free = parts_.budget.free();
  if (reclaiming_ && free < target()) return true;
  return free < parts_.budget.watermarks().low || (parts_.wakeups.room_is_wanted() && free < target());
}

bool Reclaimer::reclaim_batch() {
  if (!reclaiming_) patience_.renew(time_now());  // it begins with the pressure
  reclaiming_ = true;
  keep_off_fault_loop();
  if (purge_free_pages()) return true;
  const bool converted = convert_if_few_evictable();
  return evict_batch() || converted;
}

// The scheduler likes to wake this thread where it was kicked, in front of the fault loop, which cannot go elsewhere:
// measured as 10 ms without any fault served.
void Reclaimer::keep_off_fault_loop() {
  const std::uint32_t cpu = fault_loop_.cpu();
  if (cpu == avoided_cpu_) return;
  avoided_cpu_ = cpu;
  os::CpuSet others = cpus_;
  others.remove(cpu);
  static_cast<void>(os::run_on(others));
}

bool Reclaimer::purge_free_pages() {
  if (free_pages_ == nullptr || free_pages_->purge_dirty({kPagesPerBlock}).pages.value == 0) return false;
  parts_.wakeups.room_changed();
  return true;
}

// Native blocks age too: one of them becomes evictable when little else is, and now and then in any case.
bool Reclaimer::convert_if_few_evictable() {
  // Folios count in full here although some of their pages are absent: half of what is charged is not too much.
  const std::uint64_t evictable = parts_.policy.aged().value * kPagesPerFolio;
  if (evictable * 2 >= parts_.budget.charged().value && ++batches_since_conversion_ < kBatchesPerConversion)
    return false;
  batches_since_conversion_ = 0;
  return converter_.convert_oldest().ok();
}

bool Reclaimer::evict_batch() {
  const os::MutexLock lock(evictor_.mutex());
  if (evictor_.retire_written_locked().value != 0 && parts_.budget.free() >= target()) return true;
  const PageCount staged = evictor_.stage_victims_locked();
  const Watermarks marks = parts_.budget.watermarks();
  const bool short_of_room = parts_.budget.free() < marks.min || parts_.wakeups.room_is_wanted();
  if (staged.value != 0 && !short_of_room && parts_.staging.staged() <= evictor_.clusters_allowed() / 2) return true;
  switch (evictor_.process_oldest_locked(*engine_, kWritesInFlight).what) {
    case Evictor::Processed::none:
      return staged.value != 0;
    case Evictor::Processed::retired:
    case Evictor::Processed::writing:
      stuck_ = 0;
      return true;
    case Evictor::Processed::stuck:
      // Somewhere on the lists there may be pages that need no slot: all are tried once before we give up.
      return ++stuck_ <= parts_.policy.aged().value / Cluster::kFolios + 2;
  }
  return false;
}

bool Reclaimer::reap() {
  os::IoCompletion completions[64];
  const unsigned count = engine_->reap(completions, 64);
  for (unsigned i = 0; i < count; ++i) evictor_.write_completed(completions[i]);
  if (!evictor_.writes_outstanding()) return count != 0;
  const os::MutexLock lock(evictor_.mutex());
  return evictor_.retire_written_locked().value != 0 || count != 0;
}

void Reclaimer::serve_fork() {
  const os::MutexLock lock(evictor_.mutex());
  ForkGate::Inheritance& inheritance = forks_.inheritance();
  inheritance.count = 0;
  inheritance.error = parts_.store.hold_for_child();
  if (inheritance.error.ok()) inheritance.count = parts_.store.inherited_descriptors(inheritance.fds);
  const Store::ForkOutcome outcome = forks_.stand_still();
  if (inheritance.error.ok()) parts_.store.end_fork(outcome);
  if (outcome == Store::ForkOutcome::forked) evictor_.note_fork();
  patience_.renew(time_now());
}

void Reclaimer::note_progress(bool progress) {
  const Patience::Time time = time_now();
  // One fruitless round means little: the lists may have held nothing but empty folios, and are shorter now.
  if (progress || evictor_.writes_outstanding()) {
    patience_.renew(time);
  } else {
    patience_.fruitless_round(time);
  }
  const bool exhausted = patience_.exhausted();
  if (exhausted && time.now_ns - last_retry_ns_ > kRetrySwapNs) {
    last_retry_ns_ = time.now_ns;
    const os::MutexLock lock(evictor_.mutex());
    parts_.store.retry_swap();
  }
  if (exhausted_.exchange(exhausted) == exhausted) return;
  fault_loop_.set_exhausted(exhausted);
  parts_.wakeups.room_changed();
}

void Reclaimer::house_keeping() {
  const std::uint64_t now = os::monotonic_ns();
  if (now - last_house_keeping_ns_ < kHouseKeepingNs) return;
  last_house_keeping_ns_ = now;
  const os::MutexLock lock(evictor_.mutex());
  parts_.store.release_finished_holds();
  parts_.store.close_unreferenced_files();
  // Blocks that are dropped have to be allocated again: only what is much more than is in use.
  const Store::Statistics store = parts_.store.statistics();
  if (store.frontier > store.used + std::max(store.used / 4, kSpareSlots)) parts_.store.punch_free(4);
}

void Reclaimer::rest() {
  if (!parts_.wakeups.room_is_wanted()) wanted_.store(0, std::memory_order_relaxed);
  if (evictor_.writes_outstanding()) {
    // Our own writes wake us; those of the fault loop's direct reclaim are looked after every millisecond.
    if (engine_->outstanding() != 0) {
      engine_->wait(2);
    } else {
      parts_.wakeups.sleep_begin();
      parts_.wakeups.sleep(1);
    }
    return;
  }
  parts_.wakeups.sleep_begin();
  const bool still_pressed = pressed();
  if (forks_.asked() || requests_.any()) {
    parts_.wakeups.sleep_cancel();
    return;
  }
  // Pressed and resting: the last round found nothing to do. Others may free something meanwhile.
  parts_.wakeups.sleep(!still_pressed ? 1000 : exhausted() ? 10 : 1);
}

void Reclaimer::reset_in_child() {
  engine_ = nullptr;  // the parent's
  reclaiming_ = false;
  avoided_cpu_ = FaultLoop::kAnyCpu;
  wanted_.store(0, std::memory_order_relaxed);
  exhausted_.store(false, std::memory_order_relaxed);
}

}  // namespace polder
