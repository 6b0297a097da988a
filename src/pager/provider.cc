#include "pager/provider.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/message.h"
#include "os/mapping.h"

namespace polder {
namespace {

// The granules of its block that a piece has pages of, as bits.
std::uint64_t granules_of(Run piece) {
  const std::uint32_t first = granule_of(piece.first).value % kGranulesPerBlock;
  const std::uint32_t last = granule_of(piece.end() - PageCount{1}).value % kGranulesPerBlock;
  return UINT64_MAX << first & UINT64_MAX >> (63 - last);
}

// A run of more than this part of the limit does not push everything else out at once: its blocks become managed and
// its pages come as they are touched.
constexpr std::uint64_t kNativePart = 8;

// Pages that are charged twice while they are copied.
constexpr PageCount kCopiedAtOnce{kPagesPerFolio};

// What may need slots soon: staged, about to be staged, and promised to other threads.
constexpr std::uint64_t kUnderWayPart = 8;

}  // namespace

bool Provider::provide(Run run, Occupancy occupancy) {
  POLDER_DCHECK(run.pages.value != 0, "empty run", run.first.value);
  if (!ensure_described(run)) return false;
  const PageCount low = parts_.budget.watermarks().low + relief_.reserve();
  if (parts_.budget.limited() && run.pages + low > parts_.budget.free() &&
      run.pages.value > parts_.budget.limit().value / kNativePart && relief_.can_manage()) {
    if (!make_blocks_managed(run)) return false;
  }
  for (PageId page = run.first; page < run.end();) {
    const Run piece = piece_of(run, page);
    if (!provide_piece(piece, occupancy)) {
      if (page != run.first) withdraw(Run{.first = run.first, .pages = page - run.first});
      return false;
    }
    page = piece.end();
  }
  publish_gauges(parts_);
  if (parts_.budget.limited() && parts_.budget.free() < low) relief_.relieve();
  return true;
}

// The first part of a run whose rest was refused: as if it had never been provided.
void Provider::withdraw(Run run) {
  purge(run);
  for_each_piece(run, [this](Run piece) { take_back(piece); });
}

// Address space and metadata for the run.
bool Provider::ensure_described(Run run) {
  if (parts_.budget.limited() && !make_room_to_describe(run)) return false;
  const Result<std::size_t> fresh_chunks = arena_.commit(run);
  if (fresh_chunks.value != 0) {
    parts_.budget.charge_metadata(PageCount{fresh_chunks.value * metadata_per_chunk_.value});
  }
  if (!fresh_chunks.ok()) return false;
  const BlockId end = block_of(run.end() - PageCount{1}) + BlockCount{1};
  if (parts_.blocks.known(end - BlockCount{1})) return true;
  const os::MutexLock lock(parts_.blocks.mutex());
  const std::size_t folios = std::size_t{end.value} * kFoliosPerBlock;
  return parts_.table.ensure(first_page(end)).ok() && gate_flags_.ensure(folios).ok() &&
         ageing_nodes_.ensure(folios).ok() && parts_.blocks.ensure_locked(end).ok();
}

// False where the run's metadata alone would be too much: it stays, and nothing else would ever have room.
bool Provider::make_room_to_describe(Run run) {
  const PageCount metadata{arena_.uncommitted_chunks(run) * metadata_per_chunk_.value};
  if (metadata.value == 0) return true;
  const Budget& budget = parts_.budget;
  if (budget.metadata() + metadata + budget.watermarks().high >= budget.limit()) return false;
  if (budget.free() < metadata + relief_.reserve()) relief_.make_room(metadata);
  return true;
}

bool Provider::provide_piece(Run piece, Occupancy occupancy) {
  for (;;) {
    PageCount needed;
    BlockMode mode{};
    if (try_native(piece, occupancy, &needed, &mode)) return true;
    if (mode == BlockMode::managed) {
      if (!can_be_filled(piece)) return false;
      provide_managed(piece);
      return true;
    }
    if (!relief_.make_room(needed)) return false;
  }
}

// Managed pages are charged when they are touched. Where swap is nearly full, what the piece lacks must have room now:
// refused here it is no memory, refused there it is a lost page.
bool Provider::can_be_filled(Run piece) {
  PageCount missing;
  for (PageId page = piece.first; page < piece.end(); ++page) {
    const PageState state = parts_.table.load(page).state();
    missing.value += state != PageState::resident && state != PageState::evicting;
  }
  if (missing.value == 0) return true;
  const std::uint64_t under_way = parts_.budget.limit().value / kUnderWayPart;
  return relief_.store().room() > missing.value + under_way || relief_.make_room(missing);
}

// Charges and marks the piece if its block is native (or becomes so), or all of a block that gets huge pages. Otherwise
// says why not: `mode`, and the pages that room is `needed` for.
bool Provider::try_native(Run piece, Occupancy occupancy, PageCount* needed, BlockMode* mode) {
  const BlockId block = block_of(piece.first);
  const os::MutexLock lock(parts_.blocks.mutex());
  *mode = parts_.blocks.mode(block);
  if (*mode == BlockMode::managed) return false;
  NativePages& pages = parts_.blocks.native_pages_locked(block);
  const bool huge = pages.all_untouched() && try_huge(block, occupancy, *mode);
  const Run fresh = huge ? Run{first_page(block), {kPagesPerBlock}} : piece;
  *needed = pages.untouched(fresh);
  const PageCount keep = parts_.budget.limited() ? relief_.reserve() : PageCount{0};
  if (needed->value != 0 && !parts_.budget.try_charge(*needed, keep)) return false;
  pages.provide(fresh);
  if (huge) parts_.blocks.begin_unprovided_locked(block);
  if (*mode == BlockMode::unused) parts_.blocks.make_native_locked(block);
  parts_.blocks.note_provided_locked(block, granules_of(piece));
  hand_out(piece);
  return true;
}

// Of an empty block: whether the first touch of a page may make all of its pages resident. Not under a limit: to evict a
// part of a huge page, or to move it, takes it to pieces first (400 µs measured).
bool Provider::try_huge(BlockId block, Occupancy occupancy, BlockMode mode) {
  if (occupancy == Occupancy::sparse || parts_.budget.limited() || os::huge_page_mode() != os::HugePageMode::advised) {
    end_huge(block);
    return parts_.blocks.is_huge_locked(block);
  }
  if (parts_.blocks.is_huge_locked(block)) return true;
  if (!parts_.blocks.try_advise_locked(block, BlockAdvice::huge)) return false;
  char* const address = parts_.arena.address(block);
  // An empty table of pages would stand in a huge page's way.
  if (mode == BlockMode::native) static_cast<void>(os::discard(address, kBlockSize));
  os::advise_huge_pages(address, kBlockSize, os::HugePages::always);
  return true;
}

void Provider::end_huge(BlockId block) {
  if (!parts_.blocks.is_huge_locked(block) || !parts_.blocks.try_advise_locked(block, BlockAdvice::small)) return;
  os::advise_huge_pages(parts_.arena.address(block), kBlockSize, os::HugePages::never);
}

// Whatever the pages held belongs to nobody: stored and staged copies are dropped, what is in transition is kept.
void Provider::provide_managed(Run piece) {
  for (PageId page = piece.first; page < piece.end(); ++page) {
    PageWord word = parts_.table.load(page);
    for (;;) {
      const PageState state = word.state();
      if (state == PageState::stored || state == PageState::staged || state == PageState::lost) {
        if (drop_page(page, Exactness::lazily)) break;
        word = parts_.table.load(page);
      } else if (state == PageState::filling || !word.discarded() ||
                 parts_.table.transition(page, word, word.without_discarded())) {
        break;
      }
    }
  }
  hand_out(piece);
}

void Provider::hand_out(Run piece) {
  const GranuleId last = granule_of(piece.end() - PageCount{1});
  parts_.blocks.set_handed_out(granule_of(piece.first), last, kPagesPerGranule);
  parts_.blocks.set_handed_out(last, (piece.end() - first_page(last)).value);
}

// Nothing but the beginning of its first granule stays handed out: whose it is has not changed.
void Provider::take_back(Run piece) {
  const GranuleId first = granule_of(piece.first);
  parts_.blocks.set_handed_out(first, (piece.first - first_page(first)).value);
  parts_.blocks.set_handed_out(first + GranuleCount{1}, granule_of(piece.end() - PageCount{1}) + GranuleCount{1}, 0);
}

bool Provider::make_blocks_managed(Run run) {
  bool managed = true;
  for_each_piece(run, [&](Run piece) { managed &= is_managed(piece.first); });
  if (managed) return true;
  const BlockId first = block_of(run.first);
  const BlockId last = block_of(run.end() - PageCount{1});
  const Errno error = relief_.manage(first, last - first + BlockCount{1});
  if (!error.ok()) say(Message().text("pageblocks cannot be managed: ").error(error.code()));
  return error.ok();
}

void Provider::discard(Run run) {
  for_each_piece(run, [this](Run piece) {
    {
      const os::MutexLock lock(parts_.blocks.mutex());
      const BlockId block = block_of(piece.first);
      if (parts_.blocks.mode(block) != BlockMode::managed) {
        parts_.blocks.native_pages_locked(block).settle(piece);
        take_back(piece);
        return;
      }
    }
    for (PageId page = piece.first; page < piece.end(); ++page) {
      // Resident pages stay: they are paid for, and the next owner may have them.
      while (parts_.table.load(page).state() != PageState::resident && !drop_page(page, Exactness::lazily)) {
      }
    }
    take_back(piece);
  });
}

bool Provider::reads_as_zero(Run run) const {
  for (PageId page = run.first; page < run.end();) {
    const Run piece = piece_of(run, page);
    const BlockId block = block_of(page);
    if (parts_.blocks.mode(block) != BlockMode::managed) {
      if (parts_.blocks.native_pages(block).has_used(piece)) return false;
      page = piece.end();
      continue;
    }
    for (; page < piece.end(); ++page) {
      if (parts_.table.load(page).state() != PageState::untouched) return false;
    }
  }
  return true;
}

// Entries of a managed block can only go to another one, and come from one.
bool Provider::provide_for_relocation(Run run, Run from) {
  bool managed = false;
  for_each_piece(from, [&](Run piece) { managed |= is_managed(piece.first); });
  if (managed && relief_.can_manage()) {
    if (!ensure_described(run) || !make_blocks_managed(run) || !make_blocks_managed(from)) return false;
  }
  return provide(run, Occupancy::sparse);
}

PageCount Provider::relocate(Run from, PageId to) {
  PageCount done;
  while (done < from.pages) {
    const Run rest{from.first + done, from.pages - done};
    const PageId target = to + done;
    const PageCount moved = is_managed(rest.first) ? relocate_managed(rest, target) : relocator_.relocate(rest, target);
    if (moved.value == 0) break;
    done += moved;
  }
  return done;
}

// Of one managed block into one, as far as that goes.
PageCount Provider::relocate_managed(Run from, PageId to) {
  const Run piece = piece_of(from, from.first);
  const PageCount length = std::min(piece.pages, piece_of({to, from.pages}, to).pages);
  if (!is_managed(to)) return {0};
  PageCount done;
  while (done < length) {
    const PageCount left = length - done;
    PageCount moved = move_stored({from.first + done, left}, to + done);
    if (moved.value == 0) moved = move_contents({from.first + done, left}, to + done);
    if (moved.value == 0) break;
    done += moved;
  }
  return done;
}

// Pages that are in no memory. With the lock: a child that is forked meanwhile finds each either here or there.
PageCount Provider::move_stored(Run from, PageId to) {
  const os::MutexLock lock(parts_.blocks.mutex());
  PageCount stored;
  PageCount done;
  for (; done < from.pages; ++done.value) {
    const PageId page = from.first + done;
    PageWord word = parts_.table.load(page);
    PageWord there = parts_.table.load(to + done);
    if (there.state() != PageState::untouched) break;
    if (word.state() == PageState::untouched) continue;
    // Who reads it ahead of others may be faster.
    const PageWord here = word.with_state(PageState::filling).with_source(PageState::stored);
    if (word.state() != PageState::stored || !parts_.table.transition(page, word, here)) break;
    // Nobody but the owner should touch either; whoever does (mlockall, a debugger) has the page filled.
    const bool moved = parts_.table.transition(to + done, there, word);
    PageWord mine = here;
    const bool settled = parts_.table.transition(page, mine, moved ? PageWord{} : word);
    POLDER_CHECK(settled, "a page is filled by one", page.value, mine.bits());
    if (!moved) break;
    ++stored.value;
  }
  count(parts_.statistics->allocation.moved_pages, stored.value);
  return done;
}

// Pages that are in memory or on their way, or whose new place is taken, which touching it may have done for some: few, and
// dropped at once, so that no others have to leave for them.
PageCount Provider::move_contents(Run from, PageId to) {
  const auto moves_otherwise = [&](PageCount at) {
    const PageState state = parts_.table.load(from.first + at).state();
    if (state == PageState::lost || state == PageState::guard) return true;
    return (state == PageState::stored || state == PageState::untouched) &&
           parts_.table.load(to + at).state() == PageState::untouched;
  };
  PageCount length;
  while (length < std::min(from.pages, kCopiedAtOnce) && !moves_otherwise(length)) ++length.value;
  if (length.value == 0) return length;
  std::memcpy(parts_.arena.address(to), parts_.arena.address(from.first), bytes(length));
  drop_managed({from.first, length}, Exactness::at_once);
  return length;
}

void Provider::verify() const {
  for (BlockId block{0}; block.value < parts_.blocks.known_blocks().value; ++block) {
    const os::MutexLock lock(parts_.blocks.mutex());
    const BlockMode mode = parts_.blocks.mode(block);
    if (mode != BlockMode::native && mode != BlockMode::unused) continue;
    for (PageId page = first_page(block); page < first_page(block + BlockCount{1}); ++page) {
      POLDER_CHECK(parts_.table.load(page) == PageWord{}, "page of a block that is not managed has a word", page.value,
                   parts_.table.load(page).bits());
    }
  }
}

}  // namespace polder
