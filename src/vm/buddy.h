// The buddy allocator over the arena's granules. All state is out of line, so a free run is never touched and may be
// evicted, purged or unregistered while it is free.
//
//   orders      0 (one granule, 64 KiB) to 14 (1 GiB); larger requests take consecutive blocks of the highest order
//   dirty       a free run whose pages may be resident. Allocation prefers dirty runs (their pages are paid for),
//               purging takes them. Dirty and clean runs do not coalesce: the split halves of a purged block would
//               otherwise be joined and split again for every run that comes and goes, and nobody could tell which part
//               is resident. Only when no run is large enough do they coalesce, into dirty ones
//   invariants  a free run of order k starts at a multiple of 2^k; two free buddies of one order below the highest and of
//               the same contents never coexist; every granule is in exactly one free run, one allocated run, or beyond
//               the frontier
//   tail        the arena may end in less than a block of the highest order: then in one run per bit of what is left
//   lock        LockRank::buddy, held for list work; nothing is called while it is held but the commit of more nodes,
//               once per GiB of arena
//
// Algorithm: K. C. Knowlton, "A fast storage allocator" (CACM 1965); lists per order as in the kernel's mm/page_alloc.c.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "base/units.h"
#include "os/mutex.h"
#include "vm/metadata.h"
#include "vm/run.h"

namespace polder {

class Buddy {
  static constexpr std::uint32_t kNone = UINT32_MAX;

 public:
  static constexpr unsigned kMaxOrder = 14;
  static constexpr unsigned kOrderCount = kMaxOrder + 1;

  // Out-of-line state, one per granule; zero means "inside a larger run or never used".
  struct Node {
    std::uint32_t next;      // free run: the list; allocated run: its length
    std::uint32_t previous;  // free run: the list
    std::uint8_t state;      // see buddy.cc
    std::uint8_t order;      // free run
    std::uint16_t unused;
  };

  struct Taken {
    GranuleId first;
    bool dirty;  // some page of the run may be resident from an earlier use
  };

  struct Statistics {
    std::uint64_t free_runs[kOrderCount] = {};  // buddyinfo: by order, never-used space not counted
    GranuleCount free;
    GranuleCount dirty;      // part of free
    GranuleCount allocated;  // including what rounding took
    GranuleCount frontier;   // granules ever handed to a list
  };

  // `nodes` has one element per granule of the arena; the buddy commits it as its frontier advances, a block of the
  // highest order at a time.
  Buddy(MetadataArray<Node> nodes, GranuleCount granules);

  // tight: dirty runs first, which may be several neighbours, then the smallest clean one. roomy: the beginning of a
  // dirty run of up to 16 times the size, where there is one: what grows step by step then does so into pages that are
  // paid for, not each time into clean ones behind the smallest run. clean: clean runs first, for pages to be moved into.
  enum class Fit : unsigned char { tight, roomy, clean };
  // Takes `granules` consecutive granules (rounded up to the order, or to whole highest-order blocks), aligned to
  // `alignment` granules (a power of two). Empty when no run is large enough.
  std::optional<Taken> allocate(GranuleCount granules, GranuleCount alignment = {1}, Fit fit = Fit::tight);

  enum class Contents : unsigned char { clean, dirty };
  // Returns a whole run: `granules` as last passed to allocate, shrink or extend, which `contents` are of. Asserts that it
  // is allocated so.
  void free(GranuleId first, GranuleCount granules, Contents contents);

  // Gives back the end of an allocated run, including what rounding took: `from` granules as it was taken, `to` what
  // is left, exactly. `tail` is the contents of what comes free up to `from`.
  void shrink(GranuleId first, GranuleCount from, GranuleCount to, Contents tail);
  // Makes an allocated run `to` granules long where it is, into its rounding or what is free behind it. False when
  // that is not free (nothing changed then).
  bool extend(GranuleId first, GranuleCount from, GranuleCount to);

  // What a request takes of clean space: a power of two, or whole blocks of the highest order. Room to grow costs address
  // space only. Of dirty space it takes what it asked for.
  static GranuleCount rounded(GranuleCount granules);

  // Takes the smallest dirty free run out of the lists, for purging: it is of the least use. Of a run longer than `most`
  // its end. Give it back with free(…, clean).
  struct DirtyRun {
    GranuleId first;
    GranuleCount granules;
  };
  std::optional<DirtyRun> isolate_dirty(GranuleCount most = {kNone});

  Statistics statistics() const;
  // The same figures one by one, without the lock.
  GranuleCount dirty() const { return {dirty_.load(std::memory_order_relaxed)}; }
  GranuleCount allocated() const { return {allocated_.load(std::memory_order_relaxed)}; }
  // Walks everything and checks the invariants above. Takes the lock for the whole walk.
  void verify() const;

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  enum class State : std::uint8_t;

  static constexpr std::uint32_t kHighest = std::uint32_t{1} << kMaxOrder;

  Node& node(std::uint32_t granule) const { return nodes_[granule]; }
  State state_locked(std::uint32_t granule) const POLDER_REQUIRES(mutex_);
  void push_locked(std::uint32_t granule, unsigned order, Contents contents) POLDER_REQUIRES(mutex_);
  Contents remove_locked(std::uint32_t granule) POLDER_REQUIRES(mutex_);
  void release_locked(std::uint32_t granule, unsigned order, Contents contents) POLDER_REQUIRES(mutex_);
  void release_range_locked(std::uint64_t first, std::uint64_t end, Contents contents) POLDER_REQUIRES(mutex_);
  void set_allocated_locked(std::uint32_t granule, std::uint64_t length) POLDER_REQUIRES(mutex_);
  Node& require_allocated_locked(GranuleId first, GranuleCount granules) const POLDER_REQUIRES(mutex_);
  std::uint32_t free_run_of_locked(std::uint32_t granule) const POLDER_REQUIRES(mutex_);
  bool is_free_locked(std::uint64_t first, std::uint64_t end) const POLDER_REQUIRES(mutex_);
  bool advance_frontier_locked() POLDER_REQUIRES(mutex_);
  bool coalesce_mixed_locked() POLDER_REQUIRES(mutex_);
  std::optional<Taken> take_order_locked(unsigned order, std::uint64_t length) POLDER_REQUIRES(mutex_);
  std::optional<Taken> take_listed_locked(unsigned order, std::uint64_t length) POLDER_REQUIRES(mutex_);
  std::optional<Taken> take_clean_locked(unsigned order, std::uint64_t length) POLDER_REQUIRES(mutex_);
  std::optional<Taken> take_roomy_locked(unsigned order, std::uint64_t length) POLDER_REQUIRES(mutex_);
  std::optional<Taken> take_stretch_locked(std::uint64_t length) POLDER_REQUIRES(mutex_);
  bool is_head_of_free_locked(std::uint32_t granule) const POLDER_REQUIRES(mutex_);
  std::uint64_t dirty_length_locked(std::uint32_t run) const POLDER_REQUIRES(mutex_);
  std::optional<Taken> take_head_locked(unsigned order, Contents contents, std::uint64_t length)
      POLDER_REQUIRES(mutex_);
  std::optional<Taken> take_blocks_locked(std::uint64_t blocks, std::uint64_t alignment, std::uint64_t length)
      POLDER_REQUIRES(mutex_);
  void verify_lists_locked() const POLDER_REQUIRES(mutex_);

  mutable os::Mutex mutex_{LockRank::buddy};
  MetadataArray<Node> nodes_;  // elements guarded by mutex_
  const std::uint32_t granules_;
  std::uint32_t frontier_ POLDER_GUARDED_BY(mutex_) = 0;
  // First of each list, by contents and order.
  std::uint32_t heads_[2][kOrderCount] POLDER_GUARDED_BY(mutex_);
  std::uint64_t free_runs_[kOrderCount] POLDER_GUARDED_BY(mutex_) = {};
  std::uint64_t free_ POLDER_GUARDED_BY(mutex_) = 0;
  // Atomic: written under the mutex, read without it by whoever decides about purging.
  std::atomic<std::uint64_t> dirty_{0};
  std::atomic<std::uint64_t> allocated_{0};
};

}  // namespace polder
