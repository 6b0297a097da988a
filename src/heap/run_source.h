// Where slabs and large runs get their memory: runs from the buddy with pages from the backing behind them, and the way
// back. Also keeps the resident memory of free runs bounded. Called with no lock held; may wait for reclaim.
//
//   bound  what is in use and what is dirty together stay near what was in use at the highest tide: where runs are large
//          at most three of the largest and an eighth above, since pieces smaller than what is wanted are of no use; what is
//          dirty alone stays below what is in use, or 128 MiB. Whoever allocates or frees beyond that purges. The highest
//          tide sinks with time
//   slack  where purging and moving small pieces takes more than a 64th of the time, the bound is higher by up to 1 MiB or a
//          16th of the highest tide (and threads keep spans of up to half of that, which are in use here); it sinks with
//          time too
//   fill   where what is dirty is of no use because it lies in pieces, and the bound has no room, its pages move into the new
//          run that is wanted
//   decay  how much of what is dirty the program needs shows at the lowest tide: pages that were dirty at every moment of
//          the last quarter of a second were not missed. Whoever frees then purges half of them
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "base/units.h"
#include "heap/granule_map.h"
#include "vm/backing.h"
#include "vm/buddy.h"
#include "vm/free_pages.h"
#include "vm/run.h"

namespace polder {

// What whoever allocates whole pages wants to find in them.
enum class RunContents : unsigned char { any, zero };

class RunSource final : public FreePages {
 public:
  // `clock`: a monotonic time in nanoseconds.
  using Clock = std::uint64_t (*)();
  // `pages`: what is free in the pages of runs that were taken, and dirty too.
  using Parts = std::array<FreePages*, 2>;
  RunSource(Buddy& buddy, Backing& backing, GranuleMap& map, const Parts& pages, Clock clock)
      : buddy_(buddy), backing_(backing), map_(map), pages_(pages), clock_(clock) {}

  // Address space only, its details in the granule map accessible. Note the tides when it is known what of it is used.
  std::optional<Buddy::Taken> take_space(GranuleCount granules, GranuleCount alignment,
                                         Buddy::Fit fit = Buddy::Fit::tight);
  // Gives back address space that has no pages, as it was taken.
  void return_space(Buddy::Taken taken, GranuleCount granules);

  // Buddy::extend and shrink, of runs from here.
  bool extend(GranuleId first, GranuleCount from, GranuleCount to);
  void shrink(GranuleId first, GranuleCount from, GranuleCount to, Buddy::Contents tail);

  // Gives back a run with its pages; `granules` as taken, its pages are `run`'s. Clean: they were moved away.
  void release(Run run, GranuleId first, GranuleCount granules, Buddy::Contents contents = Buddy::Contents::dirty);

  // Pages of a run that was taken of which nothing is used now; of which something is used again, or that is given back.
  void set_aside(PageCount pages) { unused_.fetch_add(pages.value, std::memory_order_relaxed); }
  void put_to_use(PageCount pages) { unused_.fetch_sub(pages.value, std::memory_order_relaxed); }

  // For whoever has got a run that will be written to: where it was never touched, pages that are dirty elsewhere become
  // its own, for less than it costs to purge them there and to make others here.
  void fill_from_dirty(Run run) {
    if (run.pages >= kFillFrom) fill_large_from_dirty(run);
  }

  // For whoever has put a run to use that may be dirty, or made something dirty: keeps the tides; purges what is not needed.
  void note_tides(GranuleCount allocated);
  void settle();

  // Taken and not given back, less what is set aside of it.
  GranuleCount used() const;

  // What of memory that nobody needs may stay because giving it back took too much time of late.
  GranuleCount slack() const { return {slack_.load(std::memory_order_relaxed)}; }

  // Of everything that is dirty. Purges the highest run first: it is what would be used last.
  PageCount dirty() const override;
  Purged purge_dirty(PageCount most) override;
  // Purges all of it; how much.
  GranuleCount purge_all();

 private:
  // Runs that are filled with the pages of dirty ones: from where that is cheaper than the faults that it spares.
  static constexpr PageCount kFillFrom{(std::size_t{128} << 10) / kPageSize};

  // Dirty runs that were taken from the buddy to be purged.
  struct Isolated {
    std::array<Run, 32> runs;
    std::size_t count = 0;
  };
  void add(Run run, Isolated& isolated);
  void purge(Isolated& isolated);
  Purged purge_down_to(GranuleCount target);
  GranuleCount bound() const;
  void keep_bound(GranuleCount used, GranuleCount dirty);
  void note_purging(std::uint64_t ns);
  void fill_large_from_dirty(Run run);
  bool fill_untouched(Run run);

  class DirtyFree;

  Buddy& buddy_;
  Backing& backing_;
  GranuleMap& map_;
  const Parts pages_;
  const Clock clock_;
  // Atomic, all of them: any thread; a tide that was missed costs a purge too many or too late. Granules.
  std::atomic<std::uint64_t> used_{0};          // taken and not given back
  std::atomic<std::uint64_t> unused_{0};        // part of it, in pages
  std::atomic<std::uint64_t> highest_{0};       // in use since long
  std::atomic<std::uint64_t> largest_{0};       // run that was taken of late
  std::atomic<std::uint64_t> lowest_{0};        // dirty since the tides were looked at
  std::atomic<std::uint64_t> slack_{1};         // beyond the highest tide
  std::atomic<std::uint64_t> purging_ns_{0};    // since the tides were looked at
  std::atomic<std::uint64_t> next_tide_ns_{0};  // whoever moves it on looks
  std::atomic<std::uint32_t> fill_pause_{0};    // calls in which filling is not tried, since it failed
};

}  // namespace polder
