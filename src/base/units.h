// Units of memory. Pages are not bytes and granules are not pages: every quantity that crosses a function boundary
// carries its unit in its type. All ids count from the start of the arena.
//
//   byte      1
//   page      4 KiB    what the MMU maps and the pager moves
//   granule   32 KiB   smallest run of the buddy allocator
//   folio     64 KiB   neighbourhood that is aged and evicted together
//   pageblock 2 MiB    unit of userfaultfd registration, native or managed as a whole
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace polder {

inline constexpr unsigned kPageShift = 12;
inline constexpr unsigned kGranuleShift = 15;
inline constexpr unsigned kFolioShift = 16;
inline constexpr unsigned kBlockShift = 21;

inline constexpr std::size_t kPageSize = std::size_t{1} << kPageShift;
inline constexpr std::size_t kGranuleSize = std::size_t{1} << kGranuleShift;
inline constexpr std::size_t kFolioSize = std::size_t{1} << kFolioShift;
inline constexpr std::size_t kBlockSize = std::size_t{1} << kBlockShift;

inline constexpr std::uint32_t kPagesPerGranule = 1U << (kGranuleShift - kPageShift);
inline constexpr std::uint32_t kPagesPerFolio = 1U << (kFolioShift - kPageShift);
inline constexpr std::uint32_t kPagesPerBlock = 1U << (kBlockShift - kPageShift);
inline constexpr std::uint32_t kGranulesPerBlock = 1U << (kBlockShift - kGranuleShift);
inline constexpr std::uint32_t kFoliosPerBlock = 1U << (kBlockShift - kFolioShift);

// A count of `Tag`s. Arithmetic stays within one tag; mixing two does not compile.
template <typename Tag>
struct Count {
  std::uint64_t value = 0;

  constexpr auto operator<=>(const Count&) const = default;
  constexpr Count operator+(Count other) const { return {value + other.value}; }
  constexpr Count operator-(Count other) const { return {value - other.value}; }
  constexpr Count& operator+=(Count other) { return value += other.value, *this; }
  constexpr Count& operator-=(Count other) { return value -= other.value, *this; }
};

// A position among `Tag`s. 32 bits reach 16 TiB of pages.
template <typename Tag>
struct Id {
  std::uint32_t value = 0;

  constexpr auto operator<=>(const Id&) const = default;
  constexpr Id operator+(Count<Tag> count) const { return {static_cast<std::uint32_t>(value + count.value)}; }
  constexpr Id operator-(Count<Tag> count) const { return {static_cast<std::uint32_t>(value - count.value)}; }
  constexpr Count<Tag> operator-(Id other) const { return {static_cast<std::uint64_t>(value) - other.value}; }
  constexpr Id& operator++() { return ++value, *this; }
};

struct PageTag;
struct GranuleTag;
struct FolioTag;
struct BlockTag;

using PageCount = Count<PageTag>;
using PageId = Id<PageTag>;
using GranuleCount = Count<GranuleTag>;
using GranuleId = Id<GranuleTag>;
using FolioCount = Count<FolioTag>;
using FolioId = Id<FolioTag>;
using BlockCount = Count<BlockTag>;
using BlockId = Id<BlockTag>;

constexpr std::size_t bytes(PageCount count) { return count.value << kPageShift; }
constexpr std::size_t bytes(GranuleCount count) { return count.value << kGranuleShift; }
constexpr std::size_t bytes(BlockCount count) { return count.value << kBlockShift; }

// Rounding is in the name: `_up` for what must be covered, `_down` for what fits.
constexpr PageCount pages_up(std::size_t size) { return {(size >> kPageShift) + ((size & (kPageSize - 1)) != 0)}; }
constexpr PageCount pages_down(std::size_t size) { return {size >> kPageShift}; }
constexpr GranuleCount granules_up(PageCount pages) {
  return {(pages.value + kPagesPerGranule - 1) / kPagesPerGranule};
}
constexpr PageCount pages(GranuleCount granules) { return {granules.value * kPagesPerGranule}; }

constexpr GranuleId granule_of(PageId page) { return {page.value / kPagesPerGranule}; }
constexpr FolioId folio_of(PageId page) { return {page.value / kPagesPerFolio}; }
constexpr BlockId block_of(PageId page) { return {page.value / kPagesPerBlock}; }
constexpr BlockId block_of(GranuleId granule) { return {granule.value / kGranulesPerBlock}; }
constexpr PageId first_page(GranuleId granule) { return {granule.value * kPagesPerGranule}; }
constexpr PageId first_page(FolioId folio) { return {folio.value * kPagesPerFolio}; }
constexpr PageId first_page(BlockId block) { return {block.value * kPagesPerBlock}; }

}  // namespace polder
