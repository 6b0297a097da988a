#include "heap/object_extents.h"

#include <algorithm>
#include <atomic>

namespace polder {

namespace {

// Of a run that is longer than `most`: what comes from the page on, and as much before it as there is room for.
Run part_around(Run run, PageId page, PageCount most) {
  if (run.pages <= most) return run;
  const PageId end = std::min(run.end(), page + most);
  return {end - most, most};
}

}  // namespace

Run ObjectExtents::pages_of_object(const void* address, PageCount most) const {
  const PageId page = map_.arena().page_of(address);
  const GranuleKind kind = map_.kind(address);
  if (is_slab(kind)) return part_around(in_slab(address, class_of(kind)), page, most);
  if (kind == GranuleKind::span_block) return part_around(in_block(address, kPageSpans, most), page, most);
  if (kind == GranuleKind::small_span_block) return part_around(in_block(address, kSmallSpans, most), page, most);
  return {page, {1}};
}

Run ObjectExtents::in_slab(const void* address, SizeClass size_class) const {
  const SizeClassInfo& info = info_of(size_class);
  const Arena& arena = map_.arena();
  // A slab is aligned to its length.
  const std::size_t place = reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(arena.base());
  const std::size_t offset = place % (info.granules * kGranuleSize);
  const std::size_t begin =
      place - offset + std::size_t{object_index(info, static_cast<std::uint32_t>(offset))} * info.size;
  const PageId first{static_cast<std::uint32_t>(begin / kPageSize)};
  const PageId last{static_cast<std::uint32_t>((begin + info.size - 1) / kPageSize)};
  return {first, last - first + PageCount{1}};
}

// The header stays readable when the block goes back meanwhile; what it says is then worth nothing, and is cut to what a
// span can be.
Run ObjectExtents::in_block(const void* address, const SpanUnit& unit, PageCount most) const {
  const Arena& arena = map_.arena();
  const GranuleId granule = map_.granule(address);
  const SpanBlock& block = *map_.span_block(granule);
  // It was the place of a header if the granule is still that of a block; else perhaps a large run's length.
  std::atomic_thread_fence(std::memory_order_acquire);
  const Run alone{arena.page_of(address), {1}};
  if (map_.kind(granule) != unit.kind) return alone;
  const auto place = static_cast<std::size_t>(static_cast<const char*>(address) - arena.base()) >> unit.shift;
  const unsigned index = place % SpanBits::kCount;
  for (unsigned start = index;; --start) {
    if (const std::uint16_t entry = block.entry(start); entry != 0) {
      const unsigned units = SpanBlock::units_of(entry);
      if (units <= index - start || start + units > SpanBits::kCount) break;
      const std::size_t begin = (place - index + start) << unit.shift;
      const PageId first{static_cast<std::uint32_t>(begin >> kPageShift)};
      const PageId end{static_cast<std::uint32_t>(pages_up(begin + (std::size_t{units} << unit.shift)).value)};
      return {first, end - first};
    }
    if (start == 0 || index - start == most.value * unit.per_page()) break;
  }
  return alone;
}

}  // namespace polder
