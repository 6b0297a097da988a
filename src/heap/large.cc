#include "heap/large.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/fatal.h"

namespace polder {

namespace {

// Zeroed runs from here on have their old pages dropped rather than overwritten: a program that asks for that much zero
// memory often uses little of it.
constexpr std::size_t kPurgeInsteadOfZeroing = std::size_t{4} << 20;

// A run gives up its end when that is an eighth of it, or this much.
constexpr std::uint64_t kShrinkPages = (std::size_t{1} << 20) / kPageSize;

// Below, copying into pages that are there is as fast as moving.
constexpr PageCount kMoveFrom{64};

constexpr bool is_head(GranuleKind kind) {
  return kind == GranuleKind::large_head || kind == GranuleKind::large_padded_head;
}

}  // namespace

bool LargeRuns::place(PageCount pages, std::size_t alignment, Buddy::Fit fit, Placed* placed) {
  const GranuleCount granules = space_for(pages);
  const GranuleCount step{alignment / kGranuleSize};
  const auto base = reinterpret_cast<std::uintptr_t>(map_.arena().base());
  if (base % alignment == 0) {
    const std::optional<Buddy::Taken> taken = runs_.take_space(granules, step, fit);
    if (!taken) return false;
    *placed = {{taken->first, taken->first, pages, guards_}, taken->dirty};
    return true;
  }
  // The arena's start is less aligned than what is wanted: room to move in, of which the end goes back at once.
  const std::optional<Buddy::Taken> taken = runs_.take_space(granules + step, {1});
  if (!taken) return false;
  const std::uintptr_t start = base + std::size_t{taken->first.value} * kGranuleSize;
  const GranuleCount padding{((start + alignment - 1) / alignment * alignment - start) / kGranuleSize};
  *placed = {{taken->first, taken->first + padding, pages, guards_}, taken->dirty};
  runs_.shrink(taken->first, granules + step, padding + granules,
               taken->dirty ? Buddy::Contents::dirty : Buddy::Contents::clean);
  return true;
}

void* LargeRuns::allocate(std::size_t size, std::size_t alignment, RunContents contents, Buddy::Fit fit) {
  const std::size_t arena_size = map_.arena().size();
  if (size > arena_size || alignment > arena_size) return nullptr;
  Placed placed;
  if (!place(pages_up(size), alignment, fit, &placed)) return nullptr;
  const Extent& extent = placed.extent;
  if (contents == RunContents::zero && placed.dirty && size >= kPurgeInsteadOfZeroing) {
    backing_.purge(extent.run());
  }
  if (!backing_.provide(extent.run(), Occupancy::sparse)) {
    runs_.return_space({extent.first, placed.dirty}, extent.space());
    return nullptr;
  }
  guard_end(extent);
  {
    const os::MutexLock lock(mutex_);
    enter_locked(extent);
  }
  void* const memory = map_.arena().address(extent.head);
  if (contents == RunContents::zero && !backing_.reads_as_zero(extent.run())) std::memset(memory, 0, size);
  return memory;
}

void LargeRuns::enter_locked(const Extent& extent) {
  const GranuleCount padding = extent.head - extent.first;
  if (padding.value != 0) {
    map_.set_kinds(extent.first, padding, GranuleKind::large_padding);
    map_.set_detail({extent.head.value - 1}, static_cast<std::uint32_t>(padding.value));
  }
  map_.set_kinds(extent.head, extent.space() - padding, GranuleKind::large_body);
  map_.set_kind(extent.head, padding.value == 0 ? GranuleKind::large_head : GranuleKind::large_padded_head);
  map_.set_detail(extent.head, static_cast<std::uint32_t>(extent.pages.value));
  ++counts_.runs;
  counts_.pages += extent.pages;
}

LargeRuns::Extent LargeRuns::extent_of(const void* pointer) const {
  const GranuleId head = map_.granule(pointer);
  const GranuleKind kind = map_.kind(head);
  POLDER_DCHECK(is_head(kind) && map_.arena().address(head) == pointer, "not a large run", pointer);
  std::uint32_t padding = 0;
  if (kind == GranuleKind::large_padded_head) padding = map_.detail({head.value - 1});
  return {{head.value - padding}, head, {map_.detail(head)}, guards_};
}

std::size_t LargeRuns::usable_size(const void* pointer) const { return bytes(extent_of(pointer).pages); }

LargeRuns::Extent LargeRuns::retire_locked(const void* pointer) {
  const GranuleId granule = map_.granule(pointer);
  const GranuleKind kind = map_.kind(granule);
  if (kind == GranuleKind::retired) report_double_free(pointer);
  if (!is_head(kind) || map_.arena().address(granule) != pointer) report_interior_pointer("free", pointer);
  const Extent extent = extent_of(pointer);
  map_.set_kinds(extent.first, extent.space(), GranuleKind::retired);
  --counts_.runs;
  counts_.pages -= extent.pages;
  return extent;
}

void LargeRuns::free(void* pointer) {
  Extent extent;
  {
    const os::MutexLock lock(mutex_);
    extent = retire_locked(pointer);
  }
  runs_.release(extent.run(), extent.first, extent.space());
}

void LargeRuns::guard_end(const Extent& extent) {
  if (extent.guards.value != 0) static_cast<void>(backing_.guard({extent.run().end(), extent.guards}));
}

void LargeRuns::unguard_end(const Extent& extent) {
  if (extent.guards.value != 0) static_cast<void>(backing_.unguard({extent.run().end(), extent.guards}));
}

Quarantine::Entry LargeRuns::begin_quarantine(void* pointer) {
  Extent extent;
  {
    const os::MutexLock lock(mutex_);
    extent = retire_locked(pointer);
  }
  return seal_extent(extent);
}

Quarantine::Entry LargeRuns::seal_extent(const Extent& extent) {
  seal(backing_, extent.run());
  return {map_.arena().address(extent.head), static_cast<std::uint32_t>(extent.pages.value), extent.first.value};
}

void LargeRuns::end_quarantine(const Quarantine::Entry& entry) {
  const Extent extent{{entry.space}, map_.granule(entry.object), {entry.amount}, guards_};
  unseal(backing_, extent.run(), entry.object);
  unguard_end(extent);
  purge_rest(extent);
  runs_.return_space({extent.first, false}, extent.space());
}

// What was taken with the run, but is not its pages, may be dirty still.
void LargeRuns::purge_rest(const Extent& extent) {
  const PageId begin = first_page(extent.first);
  const PageId end = first_page(extent.first + extent.space());
  const Run run = extent.run();
  if (begin < run.first) backing_.purge({begin, run.first - begin});
  if (run.end() < end) backing_.purge({run.end(), end - run.end()});
}

LargeRuns::Moved LargeRuns::move(Run from, std::size_t size) {
  const PageCount pages = pages_up(size);
  if (size > map_.arena().size() || from.pages < kMoveFrom || pages <= from.pages) return {};
  Placed placed;
  if (!place(pages, kAlignment, Buddy::Fit::clean, &placed)) return {};
  const Extent& extent = placed.extent;
  if (!backing_.provide_for_relocation(extent.run(), from)) {
    runs_.return_space({extent.first, placed.dirty}, extent.space());
    return {};
  }
  guard_end(extent);
  const PageCount moved = backing_.relocate(from, extent.run().first);
  char* const memory = map_.arena().address(extent.head);
  const std::size_t done = bytes(moved);
  std::memcpy(memory + done, map_.arena().address(from.first) + done, bytes(from.pages) - done);
  if (moved < from.pages) runs_.note_tides({0});  // moved pages are not there twice
  {
    const os::MutexLock lock(mutex_);
    enter_locked(extent);
  }
  return {memory, moved};
}

void* LargeRuns::move(void* pointer, std::size_t size, Quarantine::Entry* left) {
  const Extent old = extent_of(pointer);
  const Moved moved = move(old.run(), size);
  if (moved.memory == nullptr) return nullptr;
  {
    const os::MutexLock lock(mutex_);
    retire_locked(pointer);
  }
  if (guards_.value != 0) {
    *left = seal_extent(old);
  } else {
    const bool clean = moved.pages == old.pages;
    if (clean) purge_rest(old);
    runs_.release(old.run(), old.first, old.space(), clean ? Buddy::Contents::clean : Buddy::Contents::dirty);
  }
  return moved.memory;
}

bool LargeRuns::resize(void* pointer, std::size_t size) {
  if (size > map_.arena().size()) return false;
  const Extent extent = extent_of(pointer);
  const PageCount wanted = pages_up(size);
  if (wanted > extent.pages) return grow(extent, wanted);
  const std::uint64_t saved = (extent.pages - wanted).value;
  if (saved >= std::min(kShrinkPages, std::max<std::uint64_t>(extent.pages.value / 8, 1))) shrink(extent, wanted);
  return true;
}

bool LargeRuns::grow(const Extent& extent, PageCount pages) {
  Extent grown = extent;
  grown.pages = pages;
  if (grown.first.value + grown.space().value > (map_.arena().size() >> kGranuleShift)) return false;
  if (!map_.ensure(grown.first + grown.space())) return false;
  if (!runs_.extend(grown.first, extent.space(), grown.space())) return false;
  unguard_end(extent);
  if (!backing_.provide({extent.run().end(), pages - extent.pages}, Occupancy::sparse)) {
    guard_end(extent);
    runs_.shrink(grown.first, grown.space(), extent.space(), Buddy::Contents::dirty);
    return false;
  }
  guard_end(grown);

  const os::MutexLock lock(mutex_);
  map_.set_kinds(extent.first + extent.space(), grown.space() - extent.space(), GranuleKind::large_body);
  map_.set_detail(extent.head, static_cast<std::uint32_t>(pages.value));
  counts_.pages += pages - extent.pages;
  return true;
}

void LargeRuns::shrink(const Extent& extent, PageCount pages) {
  Extent shrunk = extent;
  shrunk.pages = pages;
  {
    const os::MutexLock lock(mutex_);
    map_.set_kinds(shrunk.first + shrunk.space(), extent.space() - shrunk.space(), GranuleKind::retired);
    map_.set_detail(extent.head, static_cast<std::uint32_t>(pages.value));
    counts_.pages -= extent.pages - pages;
  }
  unguard_end(extent);
  const Run end{shrunk.run().end(), extent.pages - pages};
  backing_.discard(end);
  // The rest of the last granule stays ours, so nobody else will use or purge its pages. A hardened heap keeps nothing.
  const std::uint64_t rest = first_page(shrunk.first + shrunk.space()).value - end.first.value;
  const std::uint64_t purged = guards_.value != 0 ? end.pages.value : std::min(rest, end.pages.value);
  if (purged != 0) backing_.purge({end.first, {purged}});
  guard_end(shrunk);
  if (shrunk.space() < extent.space()) {
    runs_.shrink(extent.first, extent.space(), shrunk.space(), Buddy::Contents::dirty);
    runs_.settle();
  }
}

LargeRuns::Statistics LargeRuns::statistics() const {
  const os::MutexLock lock(mutex_);
  return counts_;
}

}  // namespace polder
