// The buddy: which granules of the arena are free, in runs of any length. All state is out of line, so a free run is
// never touched and may be evicted, purged or unregistered while it is free.
//
//   leaf        256 granules (8 MiB): a bit for each that is used, a bit for each that is free and dirty
//   tree        over the leaves of 512 MiB. Every node joins two buddies of the same length and says how many granules are
//               free at its start, at its end, and in the longest run inside it; that is all the coalescing there is
//   dirty       free granules whose pages may be resident. They are used first: the shortest stretch of them that is long
//               enough, of the lowest 64. Purged from the highest address downwards. (Measured on a trace whose buffers
//               double, at a bound of 3 MB above the live peak: 56 thousand faults, and a hundred thousand pages moved; by
//               first fit whatever its pages are, 74 and 380 thousand, and 1.5 to 2 times the time where the machine is
//               itself virtual and a change to page tables expensive)
//   dirtiest    where no stretch is long enough: of the places that begin or end with one, that which holds the most dirty
//               granules, up to runs of 16 MiB
//   first fit   else the run at the lowest address that is long enough. What is used and what is dirty stays together at low
//               addresses that way
//   room        free, clean granules behind a run that is likely to grow, kept for it: costs address space only
//   invariants  a granule is used (by a run or as its room), free, or beyond the frontier, which is a multiple of 512 MiB
//               or the arena's end; only free granules are dirty; every node agrees with its leaves
//   lock        LockRank::buddy; nothing is called while it is held but the commit of more leaves, once per 512 MiB of arena
//
// Algorithm: the tree of buddies of K. C. Knowlton, "A fast storage allocator" (CACM 1965), with runs across buddies by
// prefixes and suffixes; address-ordered first fit: P. R. Wilson et al., "Dynamic Storage Allocation: A Survey" (1995).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "base/units.h"
#include "os/mutex.h"
#include "vm/metadata.h"
#include "vm/run.h"

namespace polder {

class Buddy {
 public:
  static constexpr unsigned kMaxOrder = 14;  // of statistics, and of the tree
  static constexpr unsigned kOrderCount = kMaxOrder + 1;

  struct Taken {
    GranuleId first;
    bool dirty = false;                // some page of the run may be resident from an earlier use
    std::uint64_t dirty_granules = 0;  // which of the first 64 granules have such
  };

  struct Statistics {
    std::uint64_t free_runs[kOrderCount] = {};  // buddyinfo: aligned blocks by order, never-used space not counted
    GranuleCount free;
    GranuleCount dirty;      // part of free
    GranuleCount allocated;  // including room
    GranuleCount frontier;   // granules that were ever described
  };

  // Takes metadata_bytes() from the space; describes more of the arena as the frontier advances.
  Buddy(MetadataSpace& space, GranuleCount granules);

  static std::size_t metadata_bytes(GranuleCount granules);
  // What of it is touched when so many granules are in use.
  static std::size_t metadata_bytes_in_use(GranuleCount granules);

  // tight: dirty first, else the dirtiest, else first fit. roomy: dirty first, else the beginning of a free run of up to 16
  // times the size, for what grows step by step. clean: no page of it is resident, for pages to be moved into. Roomy and
  // clean runs get room up to the next power of two.
  enum class Fit : unsigned char { tight, roomy, clean };
  // Takes `granules` consecutive granules, aligned to `alignment` granules (a power of two). Empty when no free run is
  // large enough.
  std::optional<Taken> allocate(GranuleCount granules, GranuleCount alignment = {1}, Fit fit = Fit::tight);

  enum class Contents : unsigned char { clean, dirty };
  // Returns a whole run: `granules` as last passed to allocate, shrink or extend, which `contents` are of. Asserts that it
  // is allocated so.
  void free(GranuleId first, GranuleCount granules, Contents contents);

  // Gives back the end of an allocated run, and its room: `from` granules as it was taken, `to` what is left. `tail` is
  // the contents of what comes free up to `from`.
  void shrink(GranuleId first, GranuleCount from, GranuleCount to, Contents tail);
  // Makes an allocated run `to` granules long where it is, into its room or what is free behind it. False when that is
  // not free (nothing changed then).
  bool extend(GranuleId first, GranuleCount from, GranuleCount to);

  // Takes the dirty free run at the highest address, for purging; of one longer than `most` its end. Give it back with
  // free(…, clean).
  struct DirtyRun {
    GranuleId first;
    GranuleCount granules;
  };
  std::optional<DirtyRun> isolate_dirty(GranuleCount most = {UINT32_MAX});

  Statistics statistics() const;
  // The same figures one by one, without the lock.
  GranuleCount dirty() const { return {dirty_.load(std::memory_order_relaxed)}; }
  GranuleCount allocated() const { return {allocated_.load(std::memory_order_relaxed)}; }
  // Walks everything and checks the invariants above. Takes the lock for the whole walk.
  void verify() const;

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  static constexpr unsigned kWords = 4;
  static constexpr std::uint32_t kLeafGranules = kWords * 64;
  static constexpr std::uint32_t kChunkGranules = std::uint32_t{1} << kMaxOrder;
  static constexpr std::uint32_t kLeavesPerChunk = kChunkGranules / kLeafGranules;
  static constexpr std::uint64_t kNowhere = UINT64_MAX;
  static_assert(kLeavesPerChunk == 64, "a chunk's dirty leaves are a word");

  using Words = std::array<std::uint64_t, kWords>;
  struct Leaf {
    Words used;
    Words dirty;
  };
  struct Free {
    std::uint32_t prefix;
    std::uint32_t suffix;
    std::uint32_t longest;
  };
  struct Chunk {
    std::uint64_t dirty_leaves;
    std::array<Free, 2 * kLeavesPerChunk> nodes;  // 1: the root, 2i and 2i + 1: the buddies below i; then the leaves
    std::array<Leaf, kLeavesPerChunk> leaves;
    // Of the run, or the room, that starts there. Apart from the leaves: a long run touches few of its pages then.
    std::array<std::uint32_t, kChunkGranules> lengths;
  };
  // A run of free granules that is looked for, and what of it has been found.
  struct Search {
    std::uint64_t from;
    std::uint64_t length;
    std::uint64_t start;  // of the free granules that end where the search is
    std::uint64_t found;
  };

  static std::uint64_t rounded(std::uint64_t granules);
  static Free free_of(const Words& used);
  static void join(Chunk& chunk, unsigned low, unsigned high);
  static Free joined(const Free& low, const Free& high, std::uint32_t length);

  Leaf& leaf(std::uint64_t granule) const {
    return chunks_[granule / kChunkGranules].leaves[granule % kChunkGranules / kLeafGranules];
  }
  std::uint32_t& length_at(std::uint64_t granule) const {
    return chunks_[granule / kChunkGranules].lengths[granule % kChunkGranules];
  }
  template <typename Change>
  void change_locked(std::uint64_t first, std::uint64_t end, Change change) POLDER_REQUIRES(mutex_);
  void summarise_locked(std::uint64_t first, std::uint64_t end) POLDER_REQUIRES(mutex_);
  void take_locked(std::uint64_t first, std::uint64_t end) POLDER_REQUIRES(mutex_);
  void release_locked(std::uint64_t first, std::uint64_t end, Contents contents) POLDER_REQUIRES(mutex_);
  bool advance_frontier_locked() POLDER_REQUIRES(mutex_);
  bool is_used_locked(std::uint64_t granule) const POLDER_REQUIRES(mutex_);
  bool is_dirty_locked(std::uint64_t granule) const POLDER_REQUIRES(mutex_);
  // The first granule in [first, end) with a bit of that kind; `end` when there is none.
  template <typename Flip>
  std::uint64_t next_locked(Words Leaf::*words, Flip flip, std::uint64_t first, std::uint64_t end) const
      POLDER_REQUIRES(mutex_);
  std::uint64_t next_used_locked(std::uint64_t first, std::uint64_t end) const POLDER_REQUIRES(mutex_);
  std::uint64_t next_dirty_locked(std::uint64_t first, std::uint64_t end) const POLDER_REQUIRES(mutex_);
  std::uint64_t room_locked(std::uint64_t end) const POLDER_REQUIRES(mutex_);
  void set_room_locked(std::uint64_t first, std::uint64_t length) POLDER_REQUIRES(mutex_);
  void require_allocated_locked(GranuleId first, GranuleCount granules) const POLDER_REQUIRES(mutex_);

  bool search_leaf_locked(Search& search, std::uint64_t first) const POLDER_REQUIRES(mutex_);
  bool search_node_locked(Search& search, const Chunk& chunk, unsigned node, std::uint64_t first,
                          std::uint32_t length) const POLDER_REQUIRES(mutex_);
  std::uint64_t first_fit_locked(std::uint64_t from, std::uint64_t length) POLDER_REQUIRES(mutex_);
  std::uint64_t aligned_fit_locked(std::uint64_t from, std::uint64_t length, std::uint64_t alignment)
      POLDER_REQUIRES(mutex_);
  std::uint64_t first_dirty_locked(std::uint64_t from) const POLDER_REQUIRES(mutex_);
  std::uint64_t dirty_fit_locked(std::uint64_t length, std::uint64_t alignment) const POLDER_REQUIRES(mutex_);
  std::uint64_t dirtiest_fit_locked(std::uint64_t length, std::uint64_t alignment) const POLDER_REQUIRES(mutex_);
  std::uint64_t clean_fit_locked(std::uint64_t length, std::uint64_t alignment) POLDER_REQUIRES(mutex_);
  std::uint64_t roomy_fit_locked(std::uint64_t length, std::uint64_t alignment) POLDER_REQUIRES(mutex_);

  void verify_leaf_locked(std::uint64_t first) const POLDER_REQUIRES(mutex_);
  void verify_runs_locked() const POLDER_REQUIRES(mutex_);

  mutable os::Mutex mutex_{LockRank::buddy};
  MetadataArray<Chunk> chunks_;  // elements guarded by mutex_
  const std::uint64_t granules_;
  std::uint64_t frontier_ POLDER_GUARDED_BY(mutex_) = 0;
  // Atomic: written under the mutex, read without it by whoever decides about purging.
  std::atomic<std::uint64_t> dirty_{0};
  std::atomic<std::uint64_t> allocated_{0};
};

}  // namespace polder
