// The provider's way of giving memory back: purges, and contents that are dropped.
#include <sys/uio.h>

#include <bit>

#include "base/check.h"
#include "os/mapping.h"
#include "os/thread.h"
#include "pager/provider.h"

namespace polder {

// Resident pages of native blocks on their way back to the kernel. Together, as the kernel flushes the TLB page by page
// where it is about few pages, and beyond that all of it at once; where a hypervisor keeps shadow page tables, 16 pages take
// 380 µs so, and 8 as one of 64 pieces (measured).
struct Provider::Drops {
  // So much takes half a millisecond, with the lock held.
  static constexpr PageCount kEnough{4 * kPagesPerBlock};
  static constexpr std::size_t kMostPieces = 64;

  bool enough() const { return pages >= kEnough || count == kMostPieces; }

  std::size_t count = 0;
  PageCount pages;
  iovec pieces[kMostPieces];
};

// Nobody else looks at what is known of the pages before flush_locked(), for the same lock.
void Provider::add_locked(Run resident, Drops& drops) {
  if (drops.count == Drops::kMostPieces) flush_locked(drops);
  parts_.blocks.native_pages_locked(block_of(resident.first)).drop(resident);
  drops.pieces[drops.count++] = {.iov_base = parts_.arena.address(resident.first), .iov_len = bytes(resident.pages)};
  drops.pages += resident.pages;
}

void Provider::flush_locked(Drops& drops) {
  if (drops.count == 0) return;
  const Errno error = os::discard_all(drops.pieces, drops.count);
  POLDER_CHECK(error.ok(), "free pages can be discarded", error.code(), drops.pieces[0].iov_base);
  parts_.budget.uncharge(drops.pages);
  count(parts_.statistics->allocation.purged_pages, drops.pages.value);
  drops.count = 0;
  drops.pages = {};
}

// Of free runs what is called dirty may never have been provided: it was part of a run whose other part was.
void Provider::purge(std::span<const Run> runs) {
  auto run = runs.begin();
  if (run == runs.end()) return;
  for (PageId next = run->first; run != runs.end();) {
    Run managed{};
    {
      const os::MutexLock lock(parts_.blocks.mutex());
      Drops drops;
      while (!drops.enough() && managed.pages.value == 0) {
        if (next == run->end()) {
          if (++run == runs.end()) break;
          next = run->first;
          continue;
        }
        const Run piece = piece_of(*run, next);
        next = piece.end();
        if (!parts_.blocks.known(block_of(piece.first))) continue;
        const BlockMode mode = parts_.blocks.mode(block_of(piece.first));
        if (mode == BlockMode::native) drop_native_locked(piece, drops);
        if (mode == BlockMode::managed) managed = piece;
      }
      flush_locked(drops);
    }
    if (managed.pages.value != 0) drop_managed(managed, Exactness::lazily);
  }
}

// A huge page is taken to pieces by that, and the kernel shall not make another around them.
void Provider::drop_native_locked(Run piece, Drops& drops) {
  const BlockId block = block_of(piece.first);
  const bool whole = piece.pages.value == kPagesPerBlock && parts_.blocks.native_pages_locked(block).all_resident();
  if (!whole) end_huge(block);
  drop_resident_locked(piece, drops);
  // What came with the huge page and was nobody's goes with it.
  for (std::uint64_t left = parts_.blocks.end_unprovided_locked(block); left != 0;) {
    const auto first = static_cast<std::uint32_t>(std::countr_zero(left));
    const auto length = static_cast<std::uint32_t>(std::countr_one(left >> first));
    left &= ~(UINT64_MAX >> (64 - length) << first);
    drop_resident_locked({.first = first_page(block) + PageCount{first * kPagesPerGranule},
                          .pages = PageCount{length * kPagesPerGranule}},
                         drops);
  }
}

void Provider::drop_resident_locked(Run piece, Drops& drops) {
  const NativePages& pages = parts_.blocks.native_pages_locked(block_of(piece.first));
  for (Run rest = piece;;) {
    const Run resident = pages.first_resident(rest);
    if (resident.pages.value == 0) return;
    add_locked(resident, drops);
    rest = {resident.end(), rest.end() - resident.end()};
  }
}

void Provider::drop_native_now_locked(Run piece) {
  Drops drops;
  drop_native_locked(piece, drops);
  flush_locked(drops);
}

void Provider::drop_contents(Run run) {
  for_each_piece(run, [this](Run piece) {
    {
      const os::MutexLock lock(parts_.blocks.mutex());
      if (parts_.blocks.mode(block_of(piece.first)) != BlockMode::managed) {
        // Handed-out pages of a native block stay charged: the kernel fills them again without asking.
        static_cast<void>(os::discard(parts_.arena.address(piece.first), bytes(piece.pages)));
        return;
      }
    }
    drop_managed(piece, Exactness::at_once);
  });
}

// Resident pages are claimed as the evictor claims them, so that nobody moves or fills them meanwhile.
void Provider::drop_managed(Run piece, Exactness exactness) {
  PageCount dropped;
  for (PageId page = piece.first; page < piece.end();) {
    PageId end = page;
    for (; end < piece.end(); ++end) {
      PageWord word = parts_.table.load(end);
      if (word.state() != PageState::resident) break;
      if (!parts_.table.transition(end, word, PageWord::of(PageState::evicting))) break;
      if (word.retained()) relief_.store().release(Location::from_bits(word.location()));
    }
    if (end == page) {
      while (!drop_page(page, exactness) && parts_.table.load(page).state() != PageState::resident) {
      }
      if (parts_.table.load(page).state() != PageState::resident) ++page;
      continue;
    }
    const Errno error = os::discard(parts_.arena.address(page), bytes(end - page));
    dropped += end - page;
    for (; page < end; ++page) {
      PageWord word = parts_.table.load(page);
      const PageWord next = PageWord::of(error.ok() ? PageState::untouched : PageState::resident);
      while (!parts_.table.transition(page, word, next)) {
      }
    }
    POLDER_CHECK(error.ok(), "pages can be discarded", error.code(), page.value);
  }
  parts_.budget.uncharge(dropped);
  count(parts_.statistics->allocation.purged_pages, dropped.value);
}

// One page of a managed block that is not resident. False when its word changed meanwhile: look again.
bool Provider::drop_page(PageId page, Exactness exactness) {
  PageWord word = parts_.table.load(page);
  switch (word.state()) {
    case PageState::untouched:
    case PageState::guard:
      return true;
    case PageState::resident:
      return false;
    case PageState::evicting:
    case PageState::filling:
      if (exactness == Exactness::lazily) return parts_.table.transition(page, word, word.with_discarded());
      os::yield_cpu();
      return false;
    case PageState::staged:
      if (!parts_.table.transition(page, word, PageWord{})) return false;
      if (word.retained()) relief_.store().release(Location::from_bits(word.location()));
      return true;
    case PageState::stored: {
      if (!parts_.table.transition(page, word, PageWord{})) return false;
      const Location location = Location::from_bits(word.location());
      parts_.statistics->reclaim.stored_pages.fetch_sub(1, std::memory_order_relaxed);
      if (location.is_pattern()) parts_.statistics->reclaim.same_filled_pages.fetch_sub(1, std::memory_order_relaxed);
      relief_.store().release(location);
      return true;
    }
    case PageState::lost:
      if (word.poisoning()) {
        os::yield_cpu();
        return false;
      }
      // The poison goes with the page's entry.
      static_cast<void>(os::discard(parts_.arena.address(page), kPageSize));
      return parts_.table.transition(page, word, PageWord{});
  }
  POLDER_CHECK(false, "page state", page.value, word.bits());
}

}  // namespace polder
