// Spans: allocations of more than 4.5 KiB up to 512 KiB, cut side by side out of blocks of 512 units. Those of more than
// 32 KiB, and what has to be aligned to pages, in units of a page out of blocks of 2 MiB; smaller ones in units of 512 bytes
// out of blocks of 256 KiB, since half a page is much of them. (Measured against pages for all: peak memory of
// realloc_vectors 0.973, of lua 0.99, of calloc, where spans come and go and leave gaps within pages, 0.995, in units of
// 1 KiB; of 2 KiB the half of that; of 512 bytes realloc_vectors and trace another 0.994. Searching all blocks for the
// shortest gap gained nothing.) Larger ones are runs of their own (large.h): what those waste at their end, up to 7 pages,
// would be too much of these.
//
//   choice      the block whose longest gap is the shortest that is long enough, in it the shortest such gap: full blocks
//               fill up, the others have a chance to become empty, and then they go back to the buddy. Where spans have
//               to be aligned, the gaps of one block of each length are looked at
//   header      in the metadata pool; for every unit of the block:
//               used    part of a span, or about to be one or none any more
//               starts  a span, or a stretch that is busy, begins here; it ends before the next start or unused unit
//               dirty   in a page of which nothing is used, and that may be resident
//               spans   of the unit that a span starts with: its length, as long as the program or a thread's cache has
//                       a pointer to it, and whether it is kept by such a cache (span_cache.h)
//   shared      a page in which two spans meet is provided for the first and given up with the last. Whoever does either
//               has all the rest of the page meanwhile
//   hardened    only in pages. A span is followed by a page that is its own and a guard. Freed, all of it becomes
//               inaccessible and waits in quarantine: not live any more, but used. It never grows or shrinks where it is
//   invariants  spans ⊆ starts ⊆ used; no page has dirty units and used ones, or only some that are dirty; a block is on the
//               list for its longest gap, on none when it has no gap; a block without used units exists only between two
//               calls of one thread
//   lock        LockRank::large, never held while the backing is called: pages that are about to change hands are busy.
//               Who holds a pointer to a span reads its length, has it kept and takes it from the program without
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "heap/granule_map.h"
#include "heap/hardening.h"
#include "heap/quarantine.h"
#include "heap/run_source.h"
#include "heap/span_bits.h"
#include "os/mutex.h"
#include "vm/backing.h"
#include "vm/free_pages.h"
#include "vm/metadata.h"

namespace polder {

struct SpanBlock;

// What spans are cut into.
struct SpanUnit {
  GranuleKind kind;  // of the blocks
  unsigned shift;    // of a unit's size, at most a page: what all spans are aligned to, and multiples of
  std::size_t largest_span;

  constexpr std::size_t size() const { return std::size_t{1} << shift; }
  // The sizes of spans.
  constexpr std::size_t round_up(std::size_t bytes) const { return (bytes + size() - 1) & ~(size() - 1); }
  constexpr unsigned per_page() const { return 1U << (kPageShift - shift); }
  constexpr unsigned per_granule() const { return 1U << (kGranuleShift - shift); }
  constexpr GranuleCount block() const { return {SpanBits::kCount / per_granule()}; }
};
inline constexpr SpanUnit kPageSpans{GranuleKind::span_block, kPageShift, std::size_t{512} << 10};
inline constexpr SpanUnit kSmallSpans{GranuleKind::small_span_block, 9, std::size_t{32} << 10};

class Spans final : public FreePages {
 public:
  static constexpr std::size_t kLargestAlignment = std::size_t{32} << 10;

  // Precondition: hardened, the unit is a page.
  Spans(const SpanUnit& unit, GranuleMap& map, RunSource& runs, MetadataPool& pool, Backing& backing,
        Hardening hardening)
      : unit_(unit),
        map_(map),
        runs_(runs),
        pool_(pool),
        backing_(backing),
        guards_(hardening == Hardening::on ? 1 : 0) {}

  // Precondition: 0 < size <= the largest span; alignment is a power of two, at most kLargestAlignment. Null without
  // memory. May wait for reclaim.
  void* allocate(std::size_t size, std::size_t alignment, RunContents contents) POLDER_EXCLUDES(mutex_);

  // For pointers into granules of the unit's kind. The first two end the program with a report, as `operation`, unless
  // the pointer is the start of a span in use.
  void free(void* pointer, Buddy::Contents contents = Buddy::Contents::dirty) POLDER_EXCLUDES(mutex_);
  std::size_t usable_size(const char* operation, const void* pointer) const POLDER_EXCLUDES(mutex_);
  // In place of free(): the span stays as it is until it is reused, or freed after all. Its size; 0 when the pointer is no
  // span in use, or it is larger than `most`. Thread-safe, without the lock.
  std::size_t keep(void* pointer, std::size_t most);
  void reuse(void* pointer);
  void free_kept(void* pointer) POLDER_EXCLUDES(mutex_) {
    reuse(pointer);
    free(pointer);
  }
  // In place of free() in a hardened heap, and what comes after it; between the two the span is nobody's.
  Quarantine::Entry begin_quarantine(void* pointer) POLDER_EXCLUDES(mutex_);
  void end_quarantine(const Quarantine::Entry& entry) POLDER_EXCLUDES(mutex_);
  // Makes the span `size` bytes long where it is; false when it has to move (nothing changed then).
  bool resize(void* pointer, std::size_t size) POLDER_EXCLUDES(mutex_);

  PageCount dirty() const override { return {dirty_.load(std::memory_order_relaxed)}; }
  Purged purge_dirty(PageCount most) override POLDER_EXCLUDES(mutex_);

  struct Statistics {
    std::uint64_t spans = 0;
    std::size_t bytes = 0;
  };
  // Looks at every block.
  Statistics statistics() const POLDER_EXCLUDES(mutex_);

  // Checks one block, and what all blocks together must give.
  void verify_locked(const SpanBlock& block, PageCount& dirty_pages) const POLDER_REQUIRES(mutex_);
  void verify_sums_locked(std::uint64_t blocks, PageCount dirty_pages) const POLDER_REQUIRES(mutex_);

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  // In units.
  struct Place {
    SpanBlock* block = nullptr;
    unsigned first = 0;
    unsigned count = 0;

    unsigned end() const { return first + count; }
    bool operator==(const Place&) const = default;
  };

  // Precondition: whole pages.
  Run run_of(const Place& pages) const;
  // Of a span: what the program has of it, and what follows that.
  Place contents_of(const Place& span) const { return {span.block, span.first, span.count - guards_}; }
  Run guards_of(const Place& span) const { return run_of({span.block, span.end() - guards_, guards_}); }
  unsigned units_for(std::size_t size) const { return static_cast<unsigned>(unit_.round_up(size) >> unit_.shift); }
  std::size_t bytes_of(unsigned units) const { return std::size_t{units} << unit_.shift; }
  PageCount pages_of(unsigned units) const { return {units >> (kPageShift - unit_.shift)}; }
  bool may_be_start(const void* pointer) const {
    return (reinterpret_cast<std::uintptr_t>(pointer) & (unit_.size() - 1)) == 0;
  }
  unsigned index_of(const void* pointer) const;
  // Without the lock, unless it is none to be taken.
  Place take_from_program(void* pointer) POLDER_EXCLUDES(mutex_);
  SpanBlock& block_of_pointer(const void* pointer) const;
  // The entry of the span that would start there.
  std::atomic<std::uint16_t>& entry_of(const void* pointer) const;
  Place require_live_locked(const char* operation, const void* pointer) const POLDER_REQUIRES(mutex_);
  bool find_locked(unsigned units, unsigned alignment, Place* place, Place* pages) POLDER_REQUIRES(mutex_);
  bool create_block(Place* place, Place* pages) POLDER_EXCLUDES(mutex_);
  Place own_pages_locked(const Place& place, const Place& known) const POLDER_REQUIRES(mutex_);
  void make_busy_locked(const Place& place, const Place& pages) POLDER_REQUIRES(mutex_);
  void set_rest_locked(const Place& place, const Place& pages, bool used) POLDER_REQUIRES(mutex_);
  bool provide(const Place& pages) {
    return pages.count == 0 || backing_.provide(run_of(contents_of(pages)), Occupancy::sparse);
  }
  void zero(char* memory, std::size_t size, const Place& place, const Place& pages) const;
  void discard(const Place& place, Buddy::Contents contents) POLDER_EXCLUDES(mutex_);
  void give_up(const Place& place, Place pages, Buddy::Contents contents) POLDER_EXCLUDES(mutex_);
  // Makes busy units unused; the block when it is empty now, off the lists: to be released without the lock.
  SpanBlock* make_unused_locked(const Place& place, const Place& pages, Buddy::Contents contents)
      POLDER_REQUIRES(mutex_);
  SpanBlock* first_on_locked(unsigned list) const POLDER_REQUIRES(mutex_) {
    return listed_.test(list) ? map_.span_block(lists_[list]) : nullptr;
  }
  void relist_locked(SpanBlock& block) POLDER_REQUIRES(mutex_);
  void unlist_locked(SpanBlock& block) POLDER_REQUIRES(mutex_);
  void release_block(SpanBlock* block) POLDER_EXCLUDES(mutex_);
  void set_dirty_locked(const Place& pages, Buddy::Contents contents) POLDER_REQUIRES(mutex_);

  const SpanUnit unit_;
  GranuleMap& map_;
  RunSource& runs_;
  MetadataPool& pool_;
  Backing& backing_;
  const unsigned guards_;  // units behind a span
  mutable os::Mutex mutex_{LockRank::large};
  // By longest gap in units, less one: one list for each length that a span may have, beyond that one for eight lengths.
  // Which of them have any, and of those the first granule of the first block.
  static constexpr unsigned kLongestSpan = static_cast<unsigned>(kPageSpans.largest_span >> kPageSpans.shift) + 1;
  static constexpr unsigned kLengthsPerList = 8;
  static constexpr unsigned list_for(unsigned longest) {
    return longest <= kLongestSpan ? longest - 1 : kLongestSpan - 1 + (longest - kLongestSpan) / kLengthsPerList;
  }
  static constexpr unsigned kListCount = kLongestSpan + (SpanBits::kCount - kLongestSpan) / kLengthsPerList;
  SpanBits listed_ POLDER_GUARDED_BY(mutex_);
  GranuleId lists_[kListCount] POLDER_GUARDED_BY(mutex_) = {};
  std::uint64_t blocks_ POLDER_GUARDED_BY(mutex_) = 0;
  std::atomic<std::uint64_t> dirty_{0};  // pages; atomic: written under the mutex, read without
};

// The header of a block; guarded by Spans::mutex_, but for the entries of spans.
struct SpanBlock {
  SpanBlock* next;
  SpanBlock* previous;
  GranuleId first;        // immutable
  std::uint16_t longest;  // units of the longest gap
  std::uint16_t list;     // that it is on, plus one; 0 when on none
  SpanBits used;
  SpanBits starts;
  SpanBits dirty;
  std::array<std::atomic<std::uint16_t>, SpanBits::kCount> spans;  // atomic: an owner reads its own without the mutex
  static constexpr std::uint16_t kLive = 0x8000;
  static constexpr std::uint16_t kKept = 0x4000;
  static constexpr std::uint16_t kUnits = 0x3FFF;

  static bool is_in_use(std::uint16_t entry) { return (entry & (kLive | kKept)) == kLive; }
  static unsigned units_of(std::uint16_t entry) { return entry & kUnits; }
  std::uint16_t entry(unsigned unit) const { return spans[unit].load(std::memory_order_relaxed); }
  void set_entry(unsigned unit, std::uint16_t entry) { spans[unit].store(entry, std::memory_order_relaxed); }
  void set_live(unsigned unit, unsigned units) { set_entry(unit, static_cast<std::uint16_t>(kLive | units)); }

  // Units of the stretch that starts there.
  unsigned length(unsigned start) const {
    const unsigned next_start = starts.next_set(start + 1);
    const unsigned next_gap = used.next_clear(start + 1);
    return (next_start < next_gap ? next_start : next_gap) - start;
  }
  unsigned longest_gap() const;
  // The first unit of so many, a multiple of `alignment` (a power of two), in the shortest gap that has them; kCount where
  // none has.
  unsigned shortest_gap_of(unsigned units, unsigned alignment) const;
};

}  // namespace polder
