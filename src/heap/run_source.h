// Where slabs and large runs get their memory: runs from the buddy with pages from the backing behind them, and the way
// back. Also keeps the resident memory of free runs bounded. Called with no lock held; may wait for reclaim.
//
//   bound  dirty granules of the buddy <= max(16 MiB, 1/8 of what is allocated); whoever frees beyond it purges
#pragma once

#include <optional>

#include "base/units.h"
#include "heap/granule_map.h"
#include "vm/backing.h"
#include "vm/buddy.h"
#include "vm/run.h"

namespace polder {

class RunSource {
 public:
  RunSource(Buddy& buddy, Backing& backing, GranuleMap& map) : buddy_(buddy), backing_(backing), map_(map) {}

  // Address space only, its details in the granule map accessible.
  std::optional<Buddy::Taken> take_space(GranuleCount granules, GranuleCount alignment,
                                         Buddy::Fit fit = Buddy::Fit::tight);
  // Gives back address space that has no pages, as it was taken.
  void return_space(Buddy::Taken taken, GranuleCount granules);

  // Gives back a run with its pages; `granules` as taken, its pages are `run`'s.
  void release(Run run, GranuleId first, GranuleCount granules);

  // Purges what is dirty beyond the bound; for whoever has made something dirty.
  void settle();
  // Purges every dirty run; the granules purged.
  GranuleCount purge_all();

 private:
  GranuleCount purge_down_to(GranuleCount target);

  Buddy& buddy_;
  Backing& backing_;
  GranuleMap& map_;
};

}  // namespace polder
