#include "heap/spans.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/fatal.h"

namespace polder {

namespace {

static_assert(kPageSpans.block().value == kGranulesPerBlock && kGranulesPerBlock == 64,
              "which granules of a block are dirty is a word");

// A span gives up its end when that is an eighth of it.
constexpr unsigned kShrinkPart = 8;

// Stretches that one turn of purging takes out of a block.
constexpr unsigned kPurgeBatch = 32;

}  // namespace

// --- blocks -----------------------------------------------------------------------------------------------------------

unsigned SpanBlock::longest_gap() const {
  unsigned longest_found = 0;
  for (unsigned gap = used.next_clear(0); gap < SpanBits::kCount;) {
    const unsigned end = used.next_set(gap);
    longest_found = std::max(longest_found, end - gap);
    gap = used.next_clear(end);
  }
  return longest_found;
}

unsigned SpanBlock::shortest_gap_of(unsigned units, unsigned alignment) const {
  unsigned best = SpanBits::kCount;
  unsigned best_length = SpanBits::kCount + 1;
  for (unsigned gap = used.next_clear(0); gap < SpanBits::kCount;) {
    const unsigned end = used.next_set(gap);
    const unsigned aligned = (gap + alignment - 1) & ~(alignment - 1);
    if (aligned + units <= end && end - gap < best_length) {
      best = aligned;
      best_length = end - gap;
    }
    gap = used.next_clear(end);
  }
  return best;
}

Run Spans::run_of(const Place& pages) const {
  return {first_page(pages.block->first) + pages_of(pages.first), pages_of(pages.count)};
}

SpanBlock& Spans::block_of_pointer(const void* pointer) const { return *map_.span_block(map_.granule(pointer)); }

unsigned Spans::index_of(const void* pointer) const {
  const auto offset = static_cast<std::size_t>(static_cast<const char*>(pointer) - map_.arena().base());
  return static_cast<unsigned>(offset >> unit_.shift) % SpanBits::kCount;
}

void Spans::unlist_locked(SpanBlock& block) {
  if (block.list == 0) return;
  if (block.previous != nullptr) {
    block.previous->next = block.next;
  } else {
    POLDER_CHECK(first_on_locked(block.list - 1U) == &block, "block is not on its list", &block, block.list);
    if (block.next != nullptr) {
      lists_[block.list - 1U] = block.next->first;
    } else {
      listed_.clear(block.list - 1U);
    }
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
  block.next = first_on_locked(block.list - 1U);
  if (block.next != nullptr) block.next->previous = &block;
  lists_[block.list - 1U] = block.first;
  listed_.set(block.list - 1U);
}

bool Spans::create_block(Place* place, Place* pages) {
  const std::optional<Buddy::Taken> taken = runs_.take_space(unit_.block(), unit_.block());
  if (!taken) return false;
  void* const header = pool_.allocate(sizeof(SpanBlock));
  if (header == nullptr) {
    runs_.return_space(*taken, unit_.block());
    return false;
  }
  auto* const block = static_cast<SpanBlock*>(header);  // zeroed: no unit is used, the block on no list
  block->first = taken->first;
  place->block = block;
  place->first = 0;
  const os::MutexLock lock(mutex_);
  map_.set_header(block->first, unit_.block(), unit_.kind, block);
  ++blocks_;
  runs_.set_aside(polder::pages(unit_.block()));
  for (unsigned granule = 0; granule < unit_.block().value; ++granule) {
    if ((taken->dirty_granules >> granule & 1) == 0) continue;
    set_dirty_locked({block, granule * unit_.per_granule(), unit_.per_granule()}, Buddy::Contents::dirty);
  }
  *pages = own_pages_locked(*place, {});
  make_busy_locked(*place, *pages);
  return true;
}

void Spans::release_block(SpanBlock* block) {
  if (block == nullptr) return;
  const GranuleId first = block->first;
  auto end = static_cast<unsigned>(unit_.block().value);
  std::uint64_t dirty = 0;
  for (unsigned granule = 0; granule < end; ++granule) {
    const unsigned unit = granule * unit_.per_granule();
    dirty |= std::uint64_t{block->dirty.next_set(unit) < unit + unit_.per_granule()} << granule;
  }
  pool_.free(block, sizeof(SpanBlock));
  // From the end, in pieces of the same contents: only what is dirty shall count as that.
  for (std::uint64_t borders = (dirty ^ dirty >> 1) & (UINT64_MAX >> (65 - end)); borders != 0;) {
    const auto begin = static_cast<unsigned>(std::bit_width(borders));
    runs_.shrink(first, {end}, {begin}, (dirty >> begin & 1) != 0 ? Buddy::Contents::dirty : Buddy::Contents::clean);
    borders ^= std::uint64_t{1} << (begin - 1);
    end = begin;
  }
  runs_.return_space({first, (dirty & 1) != 0}, {end});
}

// --- pages ------------------------------------------------------------------------------------------------------------

void Spans::set_dirty_locked(const Place& pages, Buddy::Contents contents) {
  if (contents == Buddy::Contents::dirty) {
    const PageCount more = pages_of(pages.block->dirty.set(pages.first, pages.count));
    if (more.value != 0) dirty_.fetch_add(more.value, std::memory_order_relaxed);
  } else {
    const PageCount fewer = pages_of(pages.block->dirty.clear(pages.first, pages.count));
    if (fewer.value != 0) dirty_.fetch_sub(fewer.value, std::memory_order_relaxed);
  }
}

// The pages of which nothing is used outside of the place, as units; none where all of its pages are shared. Those that
// are `known` to be such are, although their rest is used: by whoever knows.
Spans::Place Spans::own_pages_locked(const Place& place, const Place& known) const {
  const unsigned per_page = unit_.per_page();
  if (per_page == 1) return place;
  const SpanBits& used = place.block->used;
  unsigned first = place.first & ~(per_page - 1);
  unsigned end = (place.end() + per_page - 1) & ~(per_page - 1);
  const bool knows_first = known.count != 0 && known.first == first;
  const bool knows_end = known.count != 0 && known.end() == end;
  if (!knows_first && used.next_set(first) < place.first) first += per_page;
  if (!knows_end && end != place.end() && used.next_set(place.end()) < end) end -= per_page;
  return first < end ? Place{place.block, first, end - first} : Place{};
}

// What is in the place's own pages, but not in it.
void Spans::set_rest_locked(const Place& place, const Place& pages, bool used) {
  if (pages.count == 0) return;
  SpanBlock& block = *place.block;
  const auto set = [&block, used](unsigned first, unsigned end) {
    if (first >= end) return;
    if (used) {
      block.used.set(first, end - first);
      block.starts.set(first);
    } else {
      block.used.clear(first, end - first);
      block.starts.clear(first);
    }
  };
  set(pages.first, place.first);
  set(place.end(), pages.end());
}

void Spans::make_busy_locked(const Place& place, const Place& pages) {
  SpanBlock& block = *place.block;
  block.used.set(place.first, place.count);
  block.starts.set(place.first);
  if (pages.count != 0) {
    set_rest_locked(place, pages, true);
    runs_.put_to_use(pages_of(pages.count));
    set_dirty_locked(pages, Buddy::Contents::clean);
  }
  relist_locked(block);
}

SpanBlock* Spans::make_unused_locked(const Place& place, const Place& pages, Buddy::Contents contents) {
  SpanBlock& block = *place.block;
  block.starts.clear(place.first);
  block.used.clear(place.first, place.count);
  if (pages.count != 0) {
    set_rest_locked(place, pages, false);
    runs_.set_aside(pages_of(pages.count));
    set_dirty_locked(pages, contents);
  }
  if (block.used.next_set(0) < SpanBits::kCount) {
    relist_locked(block);
    return nullptr;
  }
  unlist_locked(block);
  map_.set_kinds(block.first, unit_.block(), GranuleKind::retired);
  --blocks_;
  runs_.put_to_use(polder::pages(unit_.block()));
  dirty_.fetch_sub(pages_of(block.dirty.population()).value, std::memory_order_relaxed);
  return &block;
}

// Busy units become unused, their pages discarded. What shared a page with them may go meanwhile, and leave it to them.
void Spans::discard(const Place& place, Buddy::Contents contents) {
  if (unit_.per_page() != 1) return give_up(place, {}, contents);
  backing_.discard(run_of(place));
  give_up(place, place, contents);
}

// The same; of their own pages, `pages` need not be discarded.
void Spans::give_up(const Place& place, Place pages, Buddy::Contents contents) {
  for (;;) {
    Place own;
    SpanBlock* empty = nullptr;
    {
      const os::MutexLock lock(mutex_);
      own = own_pages_locked(place, pages);
      if (own == pages) {
        empty = make_unused_locked(place, pages, contents);
      } else {
        set_rest_locked(place, own, true);
        relist_locked(*place.block);
      }
    }
    if (own == pages) return release_block(empty);
    if (pages.count == 0) {
      backing_.discard(run_of(own));
    } else {
      if (own.first < pages.first) backing_.discard(run_of({own.block, own.first, pages.first - own.first}));
      if (pages.end() < own.end()) backing_.discard(run_of({own.block, pages.end(), own.end() - pages.end()}));
    }
    pages = own;
  }
}

bool Spans::find_locked(unsigned units, unsigned alignment, Place* place, Place* pages) {
  for (unsigned list = listed_.next_set(units - 1); list < SpanBits::kCount; list = listed_.next_set(list + 1)) {
    place->block = first_on_locked(list);
    place->first = place->block->shortest_gap_of(units, alignment);
    if (place->first < SpanBits::kCount) {
      *pages = own_pages_locked(*place, {});
      make_busy_locked(*place, *pages);
      return true;
    }
    POLDER_CHECK(alignment > 1, "block has no gap as long as its list says", units, place->block->longest,
                 place->block);
  }
  return false;
}

// --- the program's side -----------------------------------------------------------------------------------------------

void* Spans::allocate(std::size_t size, std::size_t alignment, RunContents contents) {
  Place place{.count = units_for(size) + guards_};
  Place pages;
  POLDER_DCHECK(size != 0 && size <= unit_.largest_span, "not a size of spans", size);
  POLDER_DCHECK(alignment <= kLargestAlignment, "not an alignment of spans", alignment);
  bool found;
  {
    const os::MutexLock lock(mutex_);
    found = find_locked(place.count, std::max(units_for(alignment), 1U), &place, &pages);
  }
  if (!found && !create_block(&place, &pages)) return nullptr;
  if (!provide(pages)) {
    give_up(place, pages, Buddy::Contents::dirty);
    return nullptr;
  }
  if (guards_ != 0) static_cast<void>(backing_.guard(guards_of(place)));
  place.block->set_live(place.first, contents_of(place).count);
  char* const memory = map_.arena().address(first_page(place.block->first)) + bytes_of(place.first);
  if (pages.count != 0 && (pages.first < place.first || pages.end() > place.end())) {
    const os::MutexLock lock(mutex_);
    set_rest_locked(place, pages, false);
    relist_locked(*place.block);
  }
  if (contents == RunContents::zero) zero(memory, size, place, pages);
  return memory;
}

// What was there before is in shared pages, or in dirty ones.
void Spans::zero(char* memory, std::size_t size, const Place& place, const Place& pages) const {
  if (pages.count == 0 || !backing_.reads_as_zero(run_of(contents_of(pages)))) {
    std::memset(memory, 0, size);
    return;
  }
  if (pages.first > place.first) std::memset(memory, 0, bytes_of(pages.first - place.first));
  const std::size_t shared_end = pages.end() < place.end() ? bytes_of(pages.end() - place.first) : size;
  if (shared_end < size) std::memset(memory + shared_end, 0, size - shared_end);
}

Spans::Place Spans::require_live_locked(const char* operation, const void* pointer) const {
  // Again, with the lock: the block may have gone with its last span.
  if (map_.kind(pointer) != unit_.kind) report_double_free(pointer);
  SpanBlock& block = block_of_pointer(pointer);
  const unsigned unit = index_of(pointer);
  if (may_be_start(pointer) && SpanBlock::is_in_use(block.entry(unit))) return {&block, unit, block.length(unit)};
  // Where a stretch begins that the program has no pointer to, somebody had one, and gave it back.
  if (may_be_start(pointer) && (!block.used.test(unit) || block.starts.test(unit))) report_double_free(pointer);
  report_interior_pointer(operation, pointer);
}

std::atomic<std::uint16_t>& Spans::entry_of(const void* pointer) const {
  return block_of_pointer(pointer).spans[index_of(pointer)];
}

std::size_t Spans::usable_size(const char* operation, const void* pointer) const {
  if (may_be_start(pointer)) {
    const std::uint16_t entry = entry_of(pointer).load(std::memory_order_relaxed);
    if (SpanBlock::is_in_use(entry)) return bytes_of(SpanBlock::units_of(entry));
  }
  const os::MutexLock lock(mutex_);
  return bytes_of(contents_of(require_live_locked(operation, pointer)).count);
}

Spans::Place Spans::take_from_program(void* pointer) {
  if (may_be_start(pointer)) {
    std::atomic<std::uint16_t>& entry = entry_of(pointer);
    std::uint16_t seen = entry.load(std::memory_order_relaxed);
    // Of two threads that free it at the same time one finds none.
    // The kind as in keep().
    if (SpanBlock::is_in_use(seen) && map_.kind(pointer) == unit_.kind &&
        entry.compare_exchange_strong(seen, 0, std::memory_order_relaxed)) {
      return {&block_of_pointer(pointer), index_of(pointer), SpanBlock::units_of(seen) + guards_};
    }
  }
  const os::MutexLock lock(mutex_);
  static_cast<void>(require_live_locked("free", pointer));
  report_double_free(pointer);
}

std::size_t Spans::keep(void* pointer, std::size_t most) {
  if (!may_be_start(pointer)) return 0;
  std::atomic<std::uint16_t>& entry = entry_of(pointer);
  std::uint16_t seen = entry.load(std::memory_order_relaxed);
  const std::size_t size = bytes_of(SpanBlock::units_of(seen));
  // The kind once more: where it was freed already, with the last of the block, the entry is no entry any more.
  if (!SpanBlock::is_in_use(seen) || size > most || map_.kind(pointer) != unit_.kind) return 0;
  // Of two threads that free it at the same time one finds it kept.
  const auto kept = static_cast<std::uint16_t>(seen | SpanBlock::kKept);
  return entry.compare_exchange_strong(seen, kept, std::memory_order_relaxed) ? size : 0;
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
    place = {&block_of_pointer(entry.object), index_of(entry.object), entry.amount + guards_};
  }
  unseal(backing_, run_of(contents_of(place)), entry.object);
  static_cast<void>(backing_.unguard(guards_of(place)));
  give_up(place, place, Buddy::Contents::clean);
}

void Spans::free(void* pointer, Buddy::Contents contents) {
  discard(take_from_program(pointer), contents);
  runs_.settle();
}

bool Spans::resize(void* pointer, std::size_t size) {
  if (size > unit_.largest_span) return false;
  const unsigned wanted = units_for(size);
  if (guards_ != 0) return bytes_of(wanted) == usable_size("realloc", pointer);
  Place change;  // what is added, or given up
  Place pages;   // of what is added
  unsigned first;
  bool grows;
  {
    const os::MutexLock lock(mutex_);
    const Place span = require_live_locked("realloc", pointer);
    SpanBlock& block = *span.block;
    first = span.first;
    grows = wanted > span.count;
    if (grows) {
      change = {&block, span.end(), wanted - span.count};
      if (change.end() > SpanBits::kCount || block.used.next_set(change.first) < change.end()) return false;
      pages = own_pages_locked(change, {});
      make_busy_locked(change, pages);
    } else {
      change = {&block, span.first + wanted, span.count - wanted};
      if (change.count < std::max(span.count / kShrinkPart, 1U)) return true;
      block.starts.set(change.first);
      block.set_live(first, wanted);
    }
  }
  if (!grows) {
    discard(change, Buddy::Contents::dirty);
    runs_.settle();
    return true;
  }
  if (!provide(pages)) {
    give_up(change, pages, Buddy::Contents::dirty);
    return false;
  }
  const os::MutexLock lock(mutex_);
  change.block->starts.clear(change.first);
  change.block->set_live(first, wanted);
  set_rest_locked(change, pages, false);
  relist_locked(*change.block);
  return true;
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
      for (block = first_on_locked(list); block != nullptr && block->dirty.next_set(0) == SpanBits::kCount;)
        block = block->next;
    }
    if (block == nullptr) return {};
    for (unsigned unit = block->dirty.next_set(0); unit < SpanBits::kCount && number < kPurgeBatch && purged < most;) {
      const std::uint64_t left = (most - purged).value * unit_.per_page();
      const unsigned length = block->dirty.next_clear(unit) - unit;
      const Place place{block, unit, static_cast<unsigned>(std::min<std::uint64_t>(length, left))};
      batch[number++] = place;
      purged += pages_of(place.count);
      unit = block->dirty.next_set(place.end());
    }
    for (unsigned i = 0; i < number; ++i) make_busy_locked(batch[i], batch[i]);
  }
  std::array<Run, kPurgeBatch> runs;
  for (unsigned i = 0; i < number; ++i) runs[i] = run_of(batch[i]);
  backing_.purge({runs.data(), number});
  SpanBlock* empty = nullptr;
  {
    const os::MutexLock lock(mutex_);
    for (unsigned i = 0; i < number; ++i) empty = make_unused_locked(batch[i], batch[i], Buddy::Contents::clean);
  }
  release_block(empty);
  return {purged, number};
}

// --- statistics and verification --------------------------------------------------------------------------------------

Spans::Statistics Spans::statistics() const {
  Statistics found;
  const os::MutexLock lock(mutex_);
  const GranuleId end = map_.ensured();
  for (GranuleId granule{0}; granule < end; granule = granule + unit_.block()) {
    if (map_.kind(granule) != unit_.kind) continue;
    const SpanBlock& block = *map_.span_block(granule);
    for (unsigned unit = block.starts.next_set(0); unit < SpanBits::kCount; unit = block.starts.next_set(unit + 1)) {
      const std::uint16_t entry = block.entry(unit);
      found.spans += entry != 0;
      found.bytes += bytes_of(SpanBlock::units_of(entry));
    }
  }
  return found;
}

void Spans::verify_locked(const SpanBlock& block, PageCount& dirty_pages) const {
  POLDER_CHECK(block.used.contains(block.starts), "span starts out of place", &block, block.first.value);
  POLDER_CHECK(
      block.longest == block.longest_gap() && block.list == (block.longest == 0 ? 0 : list_for(block.longest) + 1),
      "block is on the wrong list", &block, block.longest, block.list);
  POLDER_CHECK(block.list == 0 || block.previous != nullptr || first_on_locked(block.list - 1U) == &block,
               "list of blocks is torn", &block, block.list);
  POLDER_CHECK(block.list == 0 || block.next == nullptr || block.next->previous == &block, "list of blocks is torn",
               &block, block.list);
  dirty_pages += pages_of(block.dirty.population());
  for (unsigned page = 0; page < SpanBits::kCount; page += unit_.per_page()) {
    for (unsigned unit = page; unit < page + unit_.per_page(); ++unit) {
      POLDER_CHECK(block.dirty.test(unit) == block.dirty.test(page), "page is dirty in parts", &block, unit);
      POLDER_CHECK(!block.dirty.test(unit) || !block.used.test(unit), "page is dirty and used", &block, unit);
    }
  }
  for (unsigned unit = 0; unit < SpanBits::kCount; ++unit) {
    const std::uint16_t entry = block.entry(unit);
    if (entry == 0) continue;
    POLDER_CHECK((entry & SpanBlock::kLive) != 0 && block.starts.test(unit) &&
                     block.length(unit) == SpanBlock::units_of(entry) + guards_,
                 "length of a span is wrong", &block, unit, entry);
  }
}

void Spans::verify_sums_locked(std::uint64_t blocks, PageCount dirty_pages) const {
  POLDER_CHECK(blocks == blocks_, "count of span blocks is wrong", blocks, blocks_);
  POLDER_CHECK(dirty_pages == dirty(), "count of dirty pages of blocks is wrong", dirty_pages.value, dirty().value);
}

}  // namespace polder
