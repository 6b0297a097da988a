#include "heap/object_extents.h"

#include <algorithm>
#include <atomic>

#include "heap/spans.h"

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
  if (kind == GranuleKind::span_block) return part_around(in_block(page, most), page, most);
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
Run ObjectExtents::in_block(PageId page, PageCount most) const {
  const SpanBlock& block = *map_.span_block(granule_of(page));
  // It was the place of a header if the granule is still that of a block; else perhaps a large run's length.
  std::atomic_thread_fence(std::memory_order_acquire);
  if (map_.kind(granule_of(page)) != GranuleKind::span_block) return {page, {1}};
  const PageId base = first_page(block_of(page));
  const unsigned index = page.value % kPagesPerBlock;
  for (unsigned start = index;; --start) {
    if (const std::uint16_t entry = block.entry(start); entry != 0) {
      const auto pages = static_cast<unsigned>(SpanBlock::pages_of(entry).value);
      if (pages <= index - start || start + pages > kPagesPerBlock) break;
      return {base + PageCount{start}, {pages}};
    }
    if (start == 0 || index - start == most.value) break;
  }
  return {page, {1}};
}

}  // namespace polder
