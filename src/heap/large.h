// Large runs: allocations above 512 KiB or aligned to more than a page, each a run of its own. Sizes are whole pages, only
// they are handed out. A run grows where it is as long as what is behind it is free; elsewhere it takes its pages along, to a
// place with room to grow on.
//
//   granule map   large_head, large_body … ; or large_padding …, large_padded_head, large_body … where an alignment
//                 beyond the arena's own puts the head inside the buddy's run
//   hardened      the run's pages are followed by a guard in address space of its own. Freed, all of it becomes
//                 inaccessible and waits in quarantine
//   lock          LockRank::large, for the map and the counts only, never while the backing is called
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "heap/granule_map.h"
#include "heap/hardening.h"
#include "heap/quarantine.h"
#include "heap/run_source.h"
#include "os/mutex.h"
#include "vm/backing.h"

namespace polder {

class LargeRuns {
 public:
  // Of every run: a program that touches one page of each 64 KiB finds the pages again that it touched in the run before
  // (measured with runs on any granule: peak memory 1.3 of what it is so).
  static constexpr std::size_t kAlignment = std::size_t{64} << 10;
  static_assert(kAlignment >= kGranuleSize);

  LargeRuns(GranuleMap& map, RunSource& runs, Backing& backing, Hardening hardening)
      : map_(map), runs_(runs), backing_(backing), guards_{hardening == Hardening::on ? 1U : 0U} {}

  // Precondition: alignment >= kAlignment. Null without memory. Roomy for what has grown and may grow on.
  void* allocate(std::size_t size, std::size_t alignment, RunContents contents, Buddy::Fit fit) POLDER_EXCLUDES(mutex_);
  // Ends the program with a report unless the pointer is the start of a large run.
  void free(void* pointer) POLDER_EXCLUDES(mutex_);
  // In place of free() in a hardened heap, and what comes after it; between the two the run is nobody's.
  Quarantine::Entry begin_quarantine(void* pointer) POLDER_EXCLUDES(mutex_);
  void end_quarantine(const Quarantine::Entry& entry) POLDER_EXCLUDES(mutex_);
  // Makes the run `size` bytes long where it is; false when it has to move (nothing changed then).
  bool resize(void* pointer, std::size_t size) POLDER_EXCLUDES(mutex_);
  // What became of pages that grow at another address, by moving as far as that works.
  struct Moved {
    void* memory = nullptr;  // null when it does not pay or there is no memory: nothing changed
    PageCount pages;         // that moved: where they were, nothing is left. The others were copied
  };
  // A run of `size` bytes that begins with the pages of `from`, which are the caller's.
  Moved move(Run from, std::size_t size) POLDER_EXCLUDES(mutex_);
  // The same for a run from here. The old pointer is free then, in a hardened heap to be put into quarantine as `left`
  // says. Null when nothing changed.
  void* move(void* pointer, std::size_t size, Quarantine::Entry* left) POLDER_EXCLUDES(mutex_);
  // Precondition: the start of a large run in use.
  std::size_t usable_size(const void* pointer) const;

  struct Statistics {
    std::uint64_t runs = 0;
    PageCount pages;
  };
  Statistics statistics() const POLDER_EXCLUDES(mutex_);
  Statistics statistics_locked() const POLDER_REQUIRES(mutex_) { return counts_; }
  // Address space of a run of so many pages.
  GranuleCount space_for(PageCount pages) const { return granules_up(pages + guards_); }

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  // Where a run lies: `space` granules from `first` belong to it, its pages start at `head`.
  struct Extent {
    GranuleId first;
    GranuleId head;
    PageCount pages;
    PageCount guards;

    GranuleCount space() const { return (head - first) + granules_up(pages + guards); }
    Run run() const { return {first_page(head), pages}; }
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
  Quarantine::Entry seal_extent(const Extent& extent) POLDER_EXCLUDES(mutex_);
  void guard_end(const Extent& extent) POLDER_EXCLUDES(mutex_);
  void unguard_end(const Extent& extent) POLDER_EXCLUDES(mutex_);
  void purge_rest(const Extent& extent) POLDER_EXCLUDES(mutex_);
  bool grow(const Extent& extent, PageCount pages) POLDER_EXCLUDES(mutex_);
  void shrink(const Extent& extent, PageCount pages) POLDER_EXCLUDES(mutex_);

  GranuleMap& map_;
  RunSource& runs_;
  Backing& backing_;
  const PageCount guards_;  // pages behind a run
  mutable os::Mutex mutex_{LockRank::large};
  Statistics counts_ POLDER_GUARDED_BY(mutex_);
};

}  // namespace polder
