#include "heap/run_source.h"

#include <algorithm>

namespace polder {

namespace {

constexpr GranuleCount kDirtyFloor{(std::size_t{16} << 20) / kGranuleSize};

GranuleCount dirty_bound(const Buddy& buddy) { return {std::max(kDirtyFloor.value, buddy.allocated().value / 8)}; }

constexpr Buddy::Contents contents_of(bool dirty) { return dirty ? Buddy::Contents::dirty : Buddy::Contents::clean; }

}  // namespace

std::optional<Buddy::Taken> RunSource::take_space(GranuleCount granules, GranuleCount alignment, Buddy::Fit fit) {
  const std::optional<Buddy::Taken> taken = buddy_.allocate(granules, alignment, fit);
  if (!taken) return std::nullopt;
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
  // Down to half, so that a program that frees much makes few system calls.
  const GranuleCount bound = dirty_bound(buddy_);
  if (buddy_.dirty() > bound) purge_down_to({bound.value / 2});
}

GranuleCount RunSource::purge_down_to(GranuleCount target) {
  GranuleCount purged;
  while (buddy_.dirty() > target) {
    const std::optional<Buddy::DirtyRun> dirty = buddy_.isolate_dirty();
    if (!dirty) break;
    backing_.purge({first_page(dirty->first), pages(dirty->granules)});
    buddy_.free(dirty->first, dirty->granules, Buddy::Contents::clean);
    purged += dirty->granules;
  }
  return purged;
}

GranuleCount RunSource::purge_all() { return purge_down_to({0}); }

}  // namespace polder
