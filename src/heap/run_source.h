// Where slabs and large runs get their memory: runs from the buddy with pages from the backing behind them, and the way
// back. Also keeps the resident memory of free runs bounded. Called with no lock held; may wait for reclaim.
//
//   decay  how much of what is dirty the program needs shows at the lowest ebb: pages that were dirty at every moment of
//          the last quarter of a second were not missed. Whoever frees then purges half of them
//   bound  dirty granules of the buddy <= max(128 MiB, what is allocated); whoever frees beyond it purges at once
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "base/units.h"
#include "heap/granule_map.h"
#include "vm/backing.h"
#include "vm/buddy.h"
#include "vm/run.h"

namespace polder {

class RunSource {
 public:
  // `clock`: a monotonic time in nanoseconds.
  using Clock = std::uint64_t (*)();
  RunSource(Buddy& buddy, Backing& backing, GranuleMap& map, Clock clock)
      : buddy_(buddy), backing_(backing), map_(map), clock_(clock) {}

  // Address space only, its details in the granule map accessible.
  std::optional<Buddy::Taken> take_space(GranuleCount granules, GranuleCount alignment,
                                         Buddy::Fit fit = Buddy::Fit::tight);
  // Gives back address space that has no pages, as it was taken.
  void return_space(Buddy::Taken taken, GranuleCount granules);

  // Gives back a run with its pages; `granules` as taken, its pages are `run`'s.
  void release(Run run, GranuleId first, GranuleCount granules);

  // Purges what is dirty and not needed; for whoever has made something dirty.
  void settle();
  // Purges every dirty run; the granules purged.
  GranuleCount purge_all();

 private:
  GranuleCount purge_down_to(GranuleCount target);

  Buddy& buddy_;
  Backing& backing_;
  GranuleMap& map_;
  const Clock clock_;
  // Atomic: any thread; a lowest that was missed costs a purge too many.
  std::atomic<std::uint64_t> lowest_{0};       // dirty granules since the last ebb
  std::atomic<std::uint64_t> next_ebb_ns_{0};  // whoever moves it on purges
};

}  // namespace polder
