#include "heap/spans.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/fatal.h"

namespace polder {

namespace {

constexpr GranuleCount kBlockGranules{kGranulesPerBlock};
static_assert(kGranulesPerBlock == 64, "which granules of a block are dirty is a word");

// A span gives up its end when that is an eighth of it.
constexpr unsigned kShrinkPart = 8;

// Stretches that one turn of purging takes out of a block.
constexpr unsigned kPurgeBatch = 32;

}  // namespace

// --- blocks -----------------------------------------------------------------------------------------------------------

unsigned SpanBlock::longest_gap() const {
  unsigned longest_found = 0;
  for (unsigned gap = used.next_clear(0); gap < PageBits::kCount;) {
    const unsigned end = used.next_set(gap);
    longest_found = std::max(longest_found, end - gap);
    gap = used.next_clear(end);
  }
  return longest_found;
}

unsigned SpanBlock::shortest_gap_of(unsigned pages, unsigned alignment) const {
  unsigned best = PageBits::kCount;
  unsigned best_length = PageBits::kCount + 1;
  for (unsigned gap = used.next_clear(0); gap < PageBits::kCount;) {
    const unsigned end = used.next_set(gap);
    const unsigned aligned = (gap + alignment - 1) & ~(alignment - 1);
    if (aligned + pages <= end && end - gap < best_length) {
      best = aligned;
      best_length = end - gap;
    }
    gap = used.next_clear(end);
  }
  return best;
}

Run Spans::run_of(const Place& place) const {
  return {first_page(place.block->first) + PageCount{place.first}, {place.count}};
}

SpanBlock& Spans::block_of_pointer(const void* pointer) const { return *map_.span_block(map_.granule(pointer)); }

void Spans::unlist_locked(SpanBlock& block) {
  if (block.list == 0) return;
  if (block.previous != nullptr) {
    block.previous->next = block.next;
  } else {
    POLDER_CHECK(lists_[block.list - 1U] == &block, "block is not on its list", &block, block.list);
    lists_[block.list - 1U] = block.next;
    if (block.next == nullptr) listed_.clear(block.list - 1U);
  }
  if (block.next != nullptr) block.next->previous = block.previous;
  block.list = 0;
}

void Spans::relist_locked(SpanBlock& block) {
  block.longest = static_cast<std::uint16_t>(block.longest_gap());
  const unsigned list = block.longest == 0 ? 0 : list_for(block.longest) + 1;
  if (block.list == list) return;
  unlist_locked(block);
  if (list == 0) return;
  block.list = static_cast<std::uint16_t>(list);
  block.previous = nullptr;
  block.next = lists_[block.list - 1U];
  if (block.next != nullptr) block.next->previous = &block;
  lists_[block.list - 1U] = &block;
  listed_.set(block.list - 1U);
}

bool Spans::create_block(Place* place) {
  const std::optional<Buddy::Taken> taken = runs_.take_space(kBlockGranules, kBlockGranules);
  if (!taken) return false;
  void* const header = pool_.allocate(sizeof(SpanBlock));
  if (header == nullptr) {
    runs_.return_space(*taken, kBlockGranules);
    return false;
  }
  auto* const block = static_cast<SpanBlock*>(header);  // zeroed: no page is used, the block on no list
  block->first = taken->first;
  place->block = block;
  place->first = 0;
  const os::MutexLock lock(mutex_);
  map_.set_header(block->first, kBlockGranules, GranuleKind::span_block, block);
  ++blocks_;
  runs_.set_aside({PageBits::kCount});
  for (unsigned granule = 0; granule < kGranulesPerBlock; ++granule) {
    if ((taken->dirty_granules >> granule & 1) == 0) continue;
    set_dirty_locked(*block, {block, granule * kPagesPerGranule, kPagesPerGranule}, Buddy::Contents::dirty);
  }
  make_busy_locked(*place);
  return true;
}

void Spans::release_block(SpanBlock* block) {
  if (block == nullptr) return;
  const GranuleId first = block->first;
  std::uint64_t dirty = 0;
  for (unsigned granule = 0; granule < kGranulesPerBlock; ++granule) {
    const unsigned page = granule * kPagesPerGranule;
    dirty |= std::uint64_t{block->dirty.next_set(page) < page + kPagesPerGranule} << granule;
  }
  pool_.free(block, sizeof(SpanBlock));
  // From the end, in pieces of the same contents: only what is dirty shall count as that.
  unsigned end = kGranulesPerBlock;
  for (std::uint64_t borders = (dirty ^ dirty >> 1) & (UINT64_MAX >> 1); borders != 0;) {
    const auto begin = static_cast<unsigned>(std::bit_width(borders));
    runs_.shrink(first, {end}, {begin}, (dirty >> begin & 1) != 0 ? Buddy::Contents::dirty : Buddy::Contents::clean);
    borders ^= std::uint64_t{1} << (begin - 1);
    end = begin;
  }
  runs_.return_space({first, (dirty & 1) != 0}, {end});
}

// --- pages ------------------------------------------------------------------------------------------------------------

void Spans::set_dirty_locked(SpanBlock& block, const Place& place, Buddy::Contents contents) {
  if (contents == Buddy::Contents::dirty) {
    const unsigned more = block.dirty.set(place.first, place.count);
    if (more != 0) dirty_.fetch_add(more, std::memory_order_relaxed);
  } else {
    const unsigned fewer = block.dirty.clear(place.first, place.count);
    if (fewer != 0) dirty_.fetch_sub(fewer, std::memory_order_relaxed);
  }
}

void Spans::make_busy_locked(const Place& place) {
  SpanBlock& block = *place.block;
  block.used.set(place.first, place.count);
  runs_.put_to_use({place.count});
  block.starts.set(place.first);
  set_dirty_locked(block, place, Buddy::Contents::clean);
  relist_locked(block);
}

SpanBlock* Spans::make_unused_locked(const Place& place, Buddy::Contents contents) {
  SpanBlock& block = *place.block;
  block.starts.clear(place.first);
  block.used.clear(place.first, place.count);
  runs_.set_aside({place.count});
  set_dirty_locked(block, place, contents);
  if (block.used.next_set(0) < PageBits::kCount) {
    relist_locked(block);
    return nullptr;
  }
  unlist_locked(block);
  map_.set_kinds(block.first, kBlockGranules, GranuleKind::retired);
  --blocks_;
  runs_.put_to_use({PageBits::kCount});
  dirty_.fetch_sub(block.dirty.population(), std::memory_order_relaxed);
  return &block;
}

bool Spans::find_locked(unsigned pages, unsigned alignment, Place* place) {
  for (unsigned list = listed_.next_set(pages - 1); list < PageBits::kCount; list = listed_.next_set(list + 1)) {
    place->block = lists_[list];
    place->first = place->block->shortest_gap_of(pages, alignment);
    if (place->first < PageBits::kCount) {
      make_busy_locked(*place);
      return true;
    }
    POLDER_CHECK(alignment > 1, "block has no gap as long as its list says", pages, place->block->longest,
                 place->block);
  }
  return false;
}

// --- the program's side -----------------------------------------------------------------------------------------------

void* Spans::allocate(std::size_t size, std::size_t alignment, RunContents contents) {
  Place place{.count = static_cast<unsigned>(pages_up(size).value) + guards_};
  POLDER_DCHECK(size != 0 && size <= kLargest, "not a size of spans", size);
  POLDER_DCHECK(alignment <= kLargestAlignment, "not an alignment of spans", alignment);
  bool found;
  {
    const os::MutexLock lock(mutex_);
    found = find_locked(place.count, static_cast<unsigned>(std::max(alignment, kPageSize) / kPageSize), &place);
  }
  if (!found && !create_block(&place)) return nullptr;
  const Run run = run_of(contents_of(place));
  if (!backing_.provide(run, Occupancy::sparse)) {
    SpanBlock* empty;
    {
      const os::MutexLock lock(mutex_);
      empty = make_unused_locked(place, Buddy::Contents::dirty);
    }
    release_block(empty);
    return nullptr;
  }
  if (guards_ != 0) static_cast<void>(backing_.guard(guards_of(place)));
  place.block->set_live(place.first, contents_of(place).count);
  void* const memory = map_.arena().address(run.first);
  if (contents == RunContents::zero && !backing_.reads_as_zero(run)) std::memset(memory, 0, size);
  return memory;
}

Spans::Place Spans::require_live_locked(const char* operation, const void* pointer) const {
  // Again, with the lock: the block may have gone with its last span.
  if (map_.kind(pointer) != GranuleKind::span_block) report_double_free(pointer);
  SpanBlock& block = block_of_pointer(pointer);
  const auto offset =
      static_cast<std::size_t>(static_cast<const char*>(pointer) - map_.arena().address(first_page(block.first)));
  const auto page = static_cast<unsigned>(offset / kPageSize);
  if (offset % kPageSize == 0 && SpanBlock::is_in_use(block.entry(page))) return {&block, page, block.length(page)};
  // Where a stretch begins that the program has no pointer to, somebody had one, and gave it back.
  if (offset % kPageSize == 0 && (!block.used.test(page) || block.starts.test(page))) report_double_free(pointer);
  report_interior_pointer(operation, pointer);
}

std::atomic<std::uint16_t>& Spans::entry_of(const void* pointer) const {
  return block_of_pointer(pointer).spans[map_.arena().page_of(pointer).value % kPagesPerBlock];
}

std::size_t Spans::usable_size(const char* operation, const void* pointer) const {
  if (reinterpret_cast<std::uintptr_t>(pointer) % kPageSize == 0) {
    const std::uint16_t entry = entry_of(pointer).load(std::memory_order_relaxed);
    if (SpanBlock::is_in_use(entry)) return bytes(SpanBlock::pages_of(entry));
  }
  const os::MutexLock lock(mutex_);
  return bytes(PageCount{contents_of(require_live_locked(operation, pointer)).count});
}

Spans::Place Spans::take_from_program(void* pointer) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % kPageSize == 0) {
    std::atomic<std::uint16_t>& entry = entry_of(pointer);
    std::uint16_t seen = entry.load(std::memory_order_relaxed);
    // Of two threads that free it at the same time one finds none.
    // The kind as in keep().
    if (SpanBlock::is_in_use(seen) && map_.kind(pointer) == GranuleKind::span_block &&
        entry.compare_exchange_strong(seen, 0, std::memory_order_relaxed)) {
      SpanBlock& block = block_of_pointer(pointer);
      const auto first = static_cast<unsigned>(map_.arena().page_of(pointer).value % kPagesPerBlock);
      return {&block, first, static_cast<unsigned>(SpanBlock::pages_of(seen).value) + guards_};
    }
  }
  const os::MutexLock lock(mutex_);
  static_cast<void>(require_live_locked("free", pointer));
  report_double_free(pointer);
}

PageCount Spans::keep(void* pointer, PageCount most) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % kPageSize != 0) return {0};
  std::atomic<std::uint16_t>& entry = entry_of(pointer);
  std::uint16_t seen = entry.load(std::memory_order_relaxed);
  const PageCount pages = SpanBlock::pages_of(seen);
  // The kind once more: where it was freed already, with the last of the block, the entry is no entry any more.
  if (!SpanBlock::is_in_use(seen) || pages > most || map_.kind(pointer) != GranuleKind::span_block) return {0};
  // Of two threads that free it at the same time one finds it kept.
  const auto kept = static_cast<std::uint16_t>(seen | SpanBlock::kKept);
  return entry.compare_exchange_strong(seen, kept, std::memory_order_relaxed) ? pages : PageCount{0};
}

void Spans::reuse(void* pointer) {
  std::atomic<std::uint16_t>& entry = entry_of(pointer);
  const std::uint16_t kept = entry.load(std::memory_order_relaxed);
  POLDER_CHECK((kept & SpanBlock::kKept) != 0, "a kept span is reused once", pointer, kept);
  entry.store(static_cast<std::uint16_t>(kept & ~SpanBlock::kKept), std::memory_order_relaxed);
}

Quarantine::Entry Spans::begin_quarantine(void* pointer) {
  const Run run = run_of(contents_of(take_from_program(pointer)));
  seal(backing_, run);
  return {pointer, static_cast<std::uint32_t>(run.pages.value), 0};
}

void Spans::end_quarantine(const Quarantine::Entry& entry) {
  Place place;
  {
    const os::MutexLock lock(mutex_);
    SpanBlock& block = block_of_pointer(entry.object);
    const PageId page = map_.arena().page_of(entry.object);
    place = {&block, static_cast<unsigned>((page - first_page(block.first)).value), entry.amount + guards_};
  }
  unseal(backing_, run_of(contents_of(place)), entry.object);
  static_cast<void>(backing_.unguard(guards_of(place)));
  SpanBlock* empty;
  {
    const os::MutexLock lock(mutex_);
    empty = make_unused_locked(place, Buddy::Contents::clean);
  }
  release_block(empty);
}

void Spans::free(void* pointer, Buddy::Contents contents) {
  const Place place = take_from_program(pointer);
  backing_.discard(run_of(place));
  SpanBlock* empty;
  {
    const os::MutexLock lock(mutex_);
    empty = make_unused_locked(place, contents);
  }
  release_block(empty);
  runs_.settle();
}

bool Spans::resize(void* pointer, std::size_t size) {
  if (size > kLargest) return false;
  const auto wanted = static_cast<unsigned>(pages_up(size).value);
  if (guards_ != 0) return bytes(PageCount{wanted}) == usable_size("realloc", pointer);
  Place change;  // what is added, or given up
  unsigned first;
  bool grows;
  {
    const os::MutexLock lock(mutex_);
    const Place span = require_live_locked("realloc", pointer);
    SpanBlock& block = *span.block;
    first = span.first;
    grows = wanted > span.count;
    if (grows) {
      change = {&block, span.first + span.count, wanted - span.count};
      const unsigned end = change.first + change.count;
      if (end > PageBits::kCount || block.used.next_set(change.first) < end) return false;
      make_busy_locked(change);
    } else {
      change = {&block, span.first + wanted, span.count - wanted};
      if (change.count < std::max(span.count / kShrinkPart, 1U)) return true;
      block.starts.set(change.first);
      block.set_live(first, wanted);
    }
  }
  const bool added = grows && backing_.provide(run_of(change), Occupancy::sparse);
  if (!grows) backing_.discard(run_of(change));
  {
    const os::MutexLock lock(mutex_);
    if (added) {
      change.block->starts.clear(change.first);
      change.block->set_live(first, wanted);
    } else {
      // Never the last of the block: the span itself is in it.
      static_cast<void>(make_unused_locked(change, Buddy::Contents::dirty));
    }
  }
  if (!grows) runs_.settle();
  return added || !grows;
}

// --- free pages -------------------------------------------------------------------------------------------------------

FreePages::Purged Spans::purge_dirty(PageCount most) {
  if (dirty().value == 0) return {};
  std::array<Place, kPurgeBatch> batch;
  unsigned number = 0;
  PageCount purged;
  {
    // Of a block with nearly the longest gap: it may be the next to become empty.
    const os::MutexLock lock(mutex_);
    SpanBlock* block = nullptr;
    for (unsigned list = kListCount; list-- > 0 && block == nullptr;) {
      if (!listed_.test(list)) continue;
      for (block = lists_[list]; block != nullptr && block->dirty.next_set(0) == PageBits::kCount;) block = block->next;
    }
    if (block == nullptr) return {};
    for (unsigned page = block->dirty.next_set(0); page < PageBits::kCount && number < kPurgeBatch && purged < most;) {
      const auto left = static_cast<unsigned>(std::min<std::uint64_t>((most - purged).value, PageBits::kCount));
      const Place place{block, page, std::min(block->dirty.next_clear(page) - page, left)};
      batch[number++] = place;
      purged += PageCount{place.count};
      page = block->dirty.next_set(page + place.count);
    }
    for (unsigned i = 0; i < number; ++i) make_busy_locked(batch[i]);
  }
  for (unsigned i = 0; i < number; ++i) backing_.purge(run_of(batch[i]));
  SpanBlock* empty = nullptr;
  {
    const os::MutexLock lock(mutex_);
    for (unsigned i = 0; i < number; ++i) empty = make_unused_locked(batch[i], Buddy::Contents::clean);
  }
  release_block(empty);
  return {purged, number};
}

// --- statistics and verification --------------------------------------------------------------------------------------

Spans::Statistics Spans::statistics() const {
  Statistics found;
  const os::MutexLock lock(mutex_);
  const GranuleId end = map_.ensured();
  for (GranuleId granule{0}; granule < end; granule = granule + kBlockGranules) {
    if (map_.kind(granule) != GranuleKind::span_block) continue;
    const SpanBlock& block = *map_.span_block(granule);
    for (unsigned page = block.starts.next_set(0); page < PageBits::kCount; page = block.starts.next_set(page + 1)) {
      const std::uint16_t entry = block.entry(page);
      found.spans += entry != 0;
      found.pages += SpanBlock::pages_of(entry);
    }
  }
  return found;
}

void Spans::verify_locked(const SpanBlock& block, PageCount& dirty_pages) const {
  POLDER_CHECK(block.used.contains(block.starts), "span starts out of place", &block, block.first.value);
  POLDER_CHECK(!block.dirty.intersects(block.used), "page is dirty and used", &block, block.first.value);
  POLDER_CHECK(
      block.longest == block.longest_gap() && block.list == (block.longest == 0 ? 0 : list_for(block.longest) + 1),
      "block is on the wrong list", &block, block.longest, block.list);
  POLDER_CHECK(block.list == 0 || block.previous != nullptr || lists_[block.list - 1U] == &block,
               "list of blocks is torn", &block, block.list);
  POLDER_CHECK(block.list == 0 || block.next == nullptr || block.next->previous == &block, "list of blocks is torn",
               &block, block.list);
  dirty_pages += PageCount{block.dirty.population()};
  for (unsigned page = 0; page < PageBits::kCount; ++page) {
    const std::uint16_t entry = block.entry(page);
    if (entry == 0) continue;
    const PageCount pages = SpanBlock::pages_of(entry);
    POLDER_CHECK(
        (entry & SpanBlock::kLive) != 0 && block.starts.test(page) && block.length(page) == pages.value + guards_,
        "length of a span is wrong", &block, page, entry);
  }
}

void Spans::verify_sums_locked(std::uint64_t blocks, PageCount dirty_pages) const {
  POLDER_CHECK(blocks == blocks_, "count of span blocks is wrong", blocks, blocks_);
  POLDER_CHECK(dirty_pages == dirty(), "count of dirty pages of blocks is wrong", dirty_pages.value, dirty().value);
}

}  // namespace polder
