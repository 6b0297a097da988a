#include "heap/run_source.h"

#include <algorithm>

namespace polder {

namespace {

// What may be dirty however little is allocated.
constexpr GranuleCount kDirtyFloor{(std::size_t{128} << 20) / kGranuleSize};
constexpr std::uint64_t kEbbNs = 250'000'000;
// Not worth a system call.
constexpr GranuleCount kSpare{(std::size_t{1} << 20) / kGranuleSize};

GranuleCount dirty_bound(const Buddy& buddy) { return std::max(kDirtyFloor, buddy.allocated()); }

constexpr Buddy::Contents contents_of(bool dirty) { return dirty ? Buddy::Contents::dirty : Buddy::Contents::clean; }

}  // namespace

std::optional<Buddy::Taken> RunSource::take_space(GranuleCount granules, GranuleCount alignment, Buddy::Fit fit) {
  const std::optional<Buddy::Taken> taken = buddy_.allocate(granules, alignment, fit);
  if (!taken) return std::nullopt;
  const std::uint64_t dirty = buddy_.dirty().value;
  if (dirty < lowest_.load(std::memory_order_relaxed)) lowest_.store(dirty, std::memory_order_relaxed);
  if (map_.ensure(taken->first + granules)) return taken;
  return_space(*taken, granules);
  return std::nullopt;
}

void RunSource::return_space(Buddy::Taken taken, GranuleCount granules) {
  buddy_.free(taken.first, granules, contents_of(taken.dirty));
}

void RunSource::release(Run run, GranuleId first, GranuleCount granules) {
  backing_.discard(run);
  buddy_.free(first, granules, Buddy::Contents::dirty);
  settle();
}

void RunSource::settle() {
  const GranuleCount dirty = buddy_.dirty();
  if (dirty <= kSpare) return;
  const GranuleCount bound = dirty_bound(buddy_);
  if (dirty > bound) {
    // Down to half, so that a program that frees much makes few system calls.
    purge_down_to({bound.value / 2});
    return;
  }
  const std::uint64_t now = clock_();
  std::uint64_t due = next_ebb_ns_.load(std::memory_order_relaxed);
  if (now < due || !next_ebb_ns_.compare_exchange_strong(due, now + kEbbNs, std::memory_order_relaxed)) return;
  const std::uint64_t idle = std::min(lowest_.load(std::memory_order_relaxed), dirty.value);
  if (idle > kSpare.value) purge_down_to(dirty - GranuleCount{idle / 2});
  lowest_.store(buddy_.dirty().value, std::memory_order_relaxed);
}

GranuleCount RunSource::purge_down_to(GranuleCount target) {
  GranuleCount purged;
  for (GranuleCount dirty_now = buddy_.dirty(); dirty_now > target; dirty_now = buddy_.dirty()) {
    const std::optional<Buddy::DirtyRun> dirty = buddy_.isolate_dirty(dirty_now - target);
    if (!dirty) break;
    backing_.purge({first_page(dirty->first), pages(dirty->granules)});
    buddy_.free(dirty->first, dirty->granules, Buddy::Contents::clean);
    purged += dirty->granules;
  }
  return purged;
}

GranuleCount RunSource::purge_all() { return purge_down_to({0}); }

}  // namespace polder
