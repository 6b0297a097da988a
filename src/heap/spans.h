// Spans: allocations of more than 8 KiB up to 512 KiB, cut page by page out of shared pageblocks. Larger ones are runs of
// their own (large.h): what those waste at their end, up to 7 pages, would be too much of these.
//
//   choice      the block whose longest gap is the shortest that is long enough, in it the shortest such gap: full blocks
//               fill up, the others have a chance to become empty, and then they go back to the buddy. Where pages have
//               to be aligned, the gaps of one block of each length are looked at
//   header      in the metadata pool; for every page of the block:
//               used    part of a span, or about to be one or none any more
//               starts  a span, or a stretch that is busy, begins here; it ends before the next start or unused page
//               dirty   unused, but may be resident
//               spans   of the page that a span starts with: its length, as long as the program or a thread's cache has
//                       a pointer to it, and whether it is kept by such a cache (span_cache.h)
//   hardened    a span is followed by a page that is its own and a guard. Freed, all of it becomes inaccessible and waits
//               in quarantine: not live any more, but used. It never grows or shrinks where it is
//   invariants  spans ⊆ starts ⊆ used; dirty ∩ used = ∅; a block is on the list for its longest gap, on none when it has no gap;
//               a block without used pages exists only between two calls of one thread
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
#include "heap/page_bits.h"
#include "heap/quarantine.h"
#include "heap/run_source.h"
#include "os/mutex.h"
#include "vm/backing.h"
#include "vm/free_pages.h"
#include "vm/metadata.h"

namespace polder {

struct SpanBlock;

class Spans final : public FreePages {
 public:
  static constexpr std::size_t kLargest = std::size_t{512} << 10;
  static constexpr std::size_t kAlignment = kPageSize;  // of all
  static constexpr std::size_t kLargestAlignment = std::size_t{32} << 10;

  Spans(GranuleMap& map, RunSource& runs, MetadataPool& pool, Backing& backing, Hardening hardening)
      : map_(map), runs_(runs), pool_(pool), backing_(backing), guards_(hardening == Hardening::on ? 1 : 0) {}

  // Precondition: 0 < size <= kLargest; alignment is a power of two, at most kLargestAlignment. Null without memory. May
  // wait for reclaim.
  void* allocate(std::size_t size, std::size_t alignment, RunContents contents) POLDER_EXCLUDES(mutex_);

  // For pointers into granules of the kind span_block. The first two end the program with a report, as `operation`,
  // unless the pointer is the start of a span in use.
  void free(void* pointer, Buddy::Contents contents = Buddy::Contents::dirty) POLDER_EXCLUDES(mutex_);
  std::size_t usable_size(const char* operation, const void* pointer) const POLDER_EXCLUDES(mutex_);
  // In place of free(): the span stays as it is until it is reused, or freed after all. Its length; nothing when the pointer
  // is no span in use, or it has more than `most` pages. Thread-safe, without the lock.
  PageCount keep(void* pointer, PageCount most);
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
    PageCount pages;
  };
  // Looks at every block.
  Statistics statistics() const POLDER_EXCLUDES(mutex_);

  // Checks one block, and what all blocks together must give.
  void verify_locked(const SpanBlock& block, PageCount& dirty_pages) const POLDER_REQUIRES(mutex_);
  void verify_sums_locked(std::uint64_t blocks, PageCount dirty_pages) const POLDER_REQUIRES(mutex_);

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  struct Place {
    SpanBlock* block = nullptr;
    unsigned first = 0;
    unsigned count = 0;
  };

  Run run_of(const Place& place) const;
  // Of a span: what the program has of it, and what follows that.
  Place contents_of(const Place& span) const { return {span.block, span.first, span.count - guards_}; }
  Run guards_of(const Place& span) const { return run_of({span.block, span.first + span.count - guards_, guards_}); }
  // Without the lock, unless it is none to be taken.
  Place take_from_program(void* pointer) POLDER_EXCLUDES(mutex_);
  SpanBlock& block_of_pointer(const void* pointer) const;
  // The entry of the span that would start there.
  std::atomic<std::uint16_t>& entry_of(const void* pointer) const;
  Place require_live_locked(const char* operation, const void* pointer) const POLDER_REQUIRES(mutex_);
  bool find_locked(unsigned pages, unsigned alignment, Place* place) POLDER_REQUIRES(mutex_);
  bool create_block(Place* place) POLDER_EXCLUDES(mutex_);
  void make_busy_locked(const Place& place) POLDER_REQUIRES(mutex_);
  // Makes busy pages unused; the block when it is empty now, off the lists: to be released without the lock.
  SpanBlock* make_unused_locked(const Place& place, Buddy::Contents contents) POLDER_REQUIRES(mutex_);
  void relist_locked(SpanBlock& block) POLDER_REQUIRES(mutex_);
  void unlist_locked(SpanBlock& block) POLDER_REQUIRES(mutex_);
  void release_block(SpanBlock* block) POLDER_EXCLUDES(mutex_);
  void set_dirty_locked(SpanBlock& block, const Place& place, Buddy::Contents contents) POLDER_REQUIRES(mutex_);

  GranuleMap& map_;
  RunSource& runs_;
  MetadataPool& pool_;
  Backing& backing_;
  const unsigned guards_;  // pages behind a span
  mutable os::Mutex mutex_{LockRank::large};
  // By longest gap in pages, less one: one list for each length that a span may have, beyond that one for eight lengths.
  // And which of them have any.
  static constexpr unsigned kLongestSpan = kLargest / kPageSize + 1;
  static constexpr unsigned kLengthsPerList = 8;
  static constexpr unsigned list_for(unsigned longest) {
    return longest <= kLongestSpan ? longest - 1 : kLongestSpan - 1 + (longest - kLongestSpan) / kLengthsPerList;
  }
  static constexpr unsigned kListCount = kLongestSpan + (PageBits::kCount - kLongestSpan) / kLengthsPerList;
  SpanBlock* lists_[kListCount] POLDER_GUARDED_BY(mutex_) = {};
  PageBits listed_ POLDER_GUARDED_BY(mutex_);
  std::uint64_t blocks_ POLDER_GUARDED_BY(mutex_) = 0;
  std::atomic<std::uint64_t> dirty_{0};  // pages; atomic: written under the mutex, read without
};

// The header of a block; guarded by Spans::mutex_, but for the entries of spans.
struct SpanBlock {
  SpanBlock* next;
  SpanBlock* previous;
  GranuleId first;        // immutable
  std::uint16_t longest;  // pages of the longest gap
  std::uint16_t list;     // that it is on, plus one; 0 when on none
  PageBits used;
  PageBits starts;
  PageBits dirty;
  std::array<std::atomic<std::uint16_t>, PageBits::kCount> spans;  // atomic: an owner reads its own without the mutex
  static constexpr std::uint16_t kLive = 0x8000;
  static constexpr std::uint16_t kKept = 0x4000;
  static constexpr std::uint16_t kPages = 0x3FFF;

  static bool is_in_use(std::uint16_t entry) { return (entry & (kLive | kKept)) == kLive; }
  static PageCount pages_of(std::uint16_t entry) { return {std::uint64_t{entry} & kPages}; }
  std::uint16_t entry(unsigned page) const { return spans[page].load(std::memory_order_relaxed); }
  void set_entry(unsigned page, std::uint16_t entry) { spans[page].store(entry, std::memory_order_relaxed); }
  void set_live(unsigned page, unsigned pages) { set_entry(page, static_cast<std::uint16_t>(kLive | pages)); }

  // Pages of the stretch that starts there.
  unsigned length(unsigned start) const {
    const unsigned next_start = starts.next_set(start + 1);
    const unsigned next_gap = used.next_clear(start + 1);
    return (next_start < next_gap ? next_start : next_gap) - start;
  }
  unsigned longest_gap() const;
  // The first page of so many, a multiple of `alignment` (a power of two), in the shortest gap that has them; kCount where
  // none has.
  unsigned shortest_gap_of(unsigned pages, unsigned alignment) const;
};

}  // namespace polder
