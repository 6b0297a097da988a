// Large runs: allocations above 512 KiB or aligned to more than a page, each a run of its own. Sizes are whole pages, only
// they are handed out. A run grows where it is as long as what is behind it is free; elsewhere it takes its pages along, to a
// place with room to grow on.
//
//   granule map   large_head, large_body … ; or large_padding …, large_padded_head, large_body … where an alignment
//                 beyond the arena's own puts the head inside the buddy's run
//   lock          LockRank::large, for the map and the counts only, never while the backing is called
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "heap/granule_map.h"
#include "heap/run_source.h"
#include "os/mutex.h"
#include "vm/backing.h"

namespace polder {

class LargeRuns {
 public:
  LargeRuns(GranuleMap& map, RunSource& runs, Backing& backing) : map_(map), runs_(runs), backing_(backing) {}

  // Aligned to a granule at least. Null without memory. Roomy for what has grown and may grow on.
  void* allocate(std::size_t size, std::size_t alignment, RunContents contents, Buddy::Fit fit) POLDER_EXCLUDES(mutex_);
  // Ends the program with a report unless the pointer is the start of a large run.
  void free(void* pointer) POLDER_EXCLUDES(mutex_);
  // Makes the run `size` bytes long where it is; false when it has to move (nothing changed then).
  bool resize(void* pointer, std::size_t size) POLDER_EXCLUDES(mutex_);
  // Makes the run larger at another address, by moving its pages as far as that works and pays; the old pointer is free
  // then. Null when it does not pay or there is no memory: nothing changed.
  void* move(void* pointer, std::size_t size) POLDER_EXCLUDES(mutex_);
  // Precondition: the start of a large run in use.
  std::size_t usable_size(const void* pointer) const;

  struct Statistics {
    std::uint64_t runs = 0;
    PageCount pages;
  };
  Statistics statistics() const POLDER_EXCLUDES(mutex_);
  Statistics statistics_locked() const POLDER_REQUIRES(mutex_) { return counts_; }

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  // Where a run lies: `space` granules from `first` belong to it, its pages start at `head`.
  struct Extent {
    GranuleId first;
    GranuleId head;
    PageCount pages;

    GranuleCount space() const { return (head - first) + granules_up(pages); }
    Run run() const { return {first_page(head), pages}; }
    // Pages that were not handed out, before and behind; an earlier owner's may be resident.
    Run padding() const { return {first_page(first), polder::pages(head - first)}; }
    Run rest() const { return {run().end(), first_page(first + space()) - run().end()}; }
  };

  struct Placed {
    Extent extent;
    bool dirty = false;
  };
  bool place(PageCount pages, std::size_t alignment, Buddy::Fit fit, Placed* placed);
  Extent extent_of(const void* pointer) const;
  void enter_locked(const Extent& extent) POLDER_REQUIRES(mutex_);
  // Ends the program with a report unless the pointer is the start of a large run.
  Extent retire_locked(const void* pointer) POLDER_REQUIRES(mutex_);
  bool grow(const Extent& extent, PageCount pages) POLDER_EXCLUDES(mutex_);
  void shrink(const Extent& extent, PageCount pages) POLDER_EXCLUDES(mutex_);

  GranuleMap& map_;
  RunSource& runs_;
  Backing& backing_;
  mutable os::Mutex mutex_{LockRank::large};
  Statistics counts_ POLDER_GUARDED_BY(mutex_);
};

}  // namespace polder
