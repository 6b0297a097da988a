// Size classes: the object sizes that slabs are cut into. Everything here is computed by the compiler and its invariants
// are asserted below the tables.
//
//   sizes       16, 32 … 128 in steps of 16, four steps per doubling up to 1 KiB (at most 25 % apart), eight up to 4.5 KiB
//               (12.5 %). A class more costs half a slab and what every thread keeps of it; one less costs an eighth of
//               the objects of its size. Peak memory over the suite, against eight steps everywhere: four up to 1 KiB
//               0.989 (sh8 0.91, larson 0.94, mstress 0.94; redis 1.025, replace_1m 1.03), four everywhere 0.987 but
//               sqlite 1.05, 16-byte steps up to 512 and four from 1 KiB on 1.02. Adding the classes in between as their
//               neighbours fill: replace_100k 1.09, since what lies in the neighbours stays there. One more class 1/32
//               above each power of two from 1 KiB on: sqlite 0.96, calloc 1.02, sh6 1.01.
//               Two classes beside the steps are for entries of page caches, a page and what the cache knows of it, which
//               can be most of a database's memory: 1,040 and 4,368 bytes of SQLite's (its peak 0.94).
//               What is larger is cut out of blocks that many share (spans.h), since slabs keep what is free of them. As slabs
//               up to 8 KiB, of spans in units of 1 KiB: calloc peaked at 1.05, mstress at 1.08, trace and stl at 1.02, in
//               0.91 to 1.02 of the time; up to 16 KiB calloc at 1.12
//   alignment   every size is a multiple of 16; objects start at multiples of their size from a slab that is aligned to
//               its own length, so an object is aligned to every power of two that divides its size
//   slabs       one granule (32 KiB), or more where objects would leave a 24th of the pages they cover unused, or more than
//               an eighth of the slab uncovered, which may be resident of an earlier owner. The fewer objects, the more
//               often a slab is empty. Peak memory against one granule, or two to four for at least four objects and less
//               than an eighth of waste: sqlite 0.97, calloc 0.975, replace_threads 0.99, aligned 1.01
//               Peak memory against granules of 64 KiB: xmalloc and sh6 0.96, mstress, stl and sqlite 0.98,
//               replace_threads 1.01; of time 1.02. Granules of 16 KiB: a little less in those, but mstress 1.06,
//               replace_threads 1.03
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "heap/hardening.h"

namespace polder {

inline constexpr std::size_t kSmallestObject = 16;
inline constexpr std::size_t kLargestSmall = 4608;
inline constexpr unsigned kSizeClassCount = 39;

// Index of a class, 1 … kSizeClassCount. 0 means "no class".
struct SizeClass {
  std::uint8_t index = 0;

  constexpr bool operator==(const SizeClass&) const = default;
};

struct SizeClassInfo {
  std::uint32_t size = 0;            // bytes of an object
  std::uint32_t granules = 0;        // address space of a slab
  std::uint32_t pages = 0;           // what its objects cover: handed out and charged, the rest is not
  std::uint32_t capacity = 0;        // objects of a slab
  std::uint32_t magazine = 0;        // most objects of the class that one thread keeps,
  std::uint32_t large_magazine = 0;  // the same where there are many, or the thread needs as many at once
  std::uint64_t reciprocal = 0;      // ceil(2^40 / size)
  // offset * start_test >> 24 < start_limit exactly for the offsets of the slab's objects: the fraction that
  // multiplication by the reciprocal leaves is index * (reciprocal * size - 2^40) for them and larger for all others
  // (D. Lemire, O. Kaser, N. Kurz, "Faster remainder by direct computation", 2019).
  std::uint64_t start_test = 0;
  std::uint32_t start_limit = 0;
};

namespace internal {

inline constexpr unsigned kReciprocalShift = 40;
inline constexpr unsigned kFractionShift = 64 - kReciprocalShift;
// A thread keeps at most 16 KiB of one class, and up to 64 KiB of one of which there is much, or which it empties and
// fills in turn; all within these bounds.
inline constexpr std::uint32_t kMagazineBytes = 16 << 10;
inline constexpr std::uint32_t kLargeMagazineBytes = 64 << 10;
inline constexpr std::uint32_t kSmallestMagazine = 3;
inline constexpr std::uint32_t kUsualMagazine = 255;
inline constexpr std::uint32_t kLargestMagazine = 1023;
inline constexpr std::uint32_t kFewestObjects = 2;  // of a slab; a hardened heap uses one less

// Beside the steps, in ascending order.
inline constexpr std::array<std::uint32_t, 2> kCachedPages{1056, 4384};

constexpr std::uint32_t magazine_of(std::uint32_t bytes, std::uint32_t size, std::uint32_t most) {
  const std::uint32_t count = bytes / size;
  return count < kSmallestMagazine ? kSmallestMagazine : count > most ? most : count;
}

constexpr std::uint32_t granules_for(std::uint32_t size) {
  for (std::uint32_t granules = 1;; granules *= 2) {
    const std::size_t length = granules * kGranuleSize;
    const std::size_t objects = length / size * size;
    const std::size_t covered = pages_up(objects).value * kPageSize;
    const bool dense = covered - objects <= covered / 24 && length - covered <= length / 8;
    if (dense && length >= kFewestObjects * std::size_t{size}) return granules;
  }
}

constexpr std::array<SizeClassInfo, kSizeClassCount + 1> make_size_classes() {
  std::array<SizeClassInfo, kSizeClassCount + 1> classes{};
  std::uint32_t regular = 0;
  std::uint32_t step = 16;
  const std::uint32_t* cached = kCachedPages.begin();
  for (unsigned index = 1; index <= kSizeClassCount; ++index) {
    std::uint32_t size = regular + step;
    if (cached != kCachedPages.end() && *cached < size) {
      size = *cached++;
    } else {
      regular = size;
    }
    SizeClassInfo& info = classes[index];
    info.size = size;
    info.granules = granules_for(size);
    const auto length = static_cast<std::uint32_t>(info.granules * kGranuleSize);
    info.capacity = length / size;
    info.pages = static_cast<std::uint32_t>(pages_up(std::size_t{info.capacity} * size).value);
    info.magazine = magazine_of(kMagazineBytes, size, kUsualMagazine);
    info.large_magazine = magazine_of(kLargeMagazineBytes, size, kLargestMagazine);
    info.reciprocal = ((std::uint64_t{1} << kReciprocalShift) + size - 1) / size;
    info.start_test = info.reciprocal << kFractionShift;
    const std::uint64_t excess = info.reciprocal * size - (std::uint64_t{1} << kReciprocalShift);
    info.start_limit = excess == 0 ? 1 : static_cast<std::uint32_t>(info.capacity * excess);
    if (size >= 128 && size == regular && (size & (size - 1)) == 0) step = size / (size < 1024 ? 4 : 8);
  }
  return classes;
}

}  // namespace internal

inline constexpr std::array<SizeClassInfo, kSizeClassCount + 1> kSizeClasses = internal::make_size_classes();

constexpr const SizeClassInfo& info_of(SizeClass size_class) { return kSizeClasses[size_class.index]; }

// What is used of a slab's address space: all of it, but in a hardened heap only objects that end before its last page.
struct SlabShape {
  std::uint32_t capacity;  // objects
  std::uint32_t pages;     // that they cover
};
constexpr SlabShape slab_shape(SizeClass size_class, Hardening hardening) {
  const SizeClassInfo& info = info_of(size_class);
  if (hardening == Hardening::off) return {info.capacity, info.pages};
  const auto capacity = static_cast<std::uint32_t>((info.granules * kGranuleSize - kPageSize) / info.size);
  return {capacity, static_cast<std::uint32_t>(pages_up(std::size_t{capacity} * info.size).value)};
}

namespace internal {

// Class by size in units of 16 bytes, rounded up: the first cache line serves sizes up to 1008.
constexpr std::array<std::uint8_t, kLargestSmall / 16 + 1> make_class_by_size() {
  std::array<std::uint8_t, kLargestSmall / 16 + 1> table{};
  std::uint8_t index = 1;
  for (std::size_t unit = 0; unit < table.size(); ++unit) {
    if (unit * 16 > kSizeClasses[index].size) ++index;
    table[unit] = index;
  }
  return table;
}

alignas(64) inline constexpr std::array<std::uint8_t, kLargestSmall / 16 + 1> kClassBySize = make_class_by_size();

constexpr bool size_classes_hold() {
  for (unsigned index = 1; index <= kSizeClassCount; ++index) {
    const SizeClassInfo& info = kSizeClasses[index];
    const std::uint32_t previous = kSizeClasses[index - 1].size;
    if (info.size % 16 != 0 || info.size <= previous) return false;
    if (info.size > 128 && (info.size - previous) * (info.size > 1024 ? 8 : 4) > previous) return false;
    const std::size_t length = info.granules * kGranuleSize;
    if (info.capacity * std::size_t{info.size} > length || length - info.capacity * std::size_t{info.size} >= info.size)
      return false;
    // Objects of a slab are told apart by multiplication: exact for every offset below 2^17 and size up to 2^14.
    if (length > (std::size_t{1} << 17) || info.size > (1U << 14)) return false;
    if (info.pages * 8 < info.granules * kPagesPerGranule * 7) return false;
    const std::uint64_t excess = info.reciprocal * info.size - (std::uint64_t{1} << kReciprocalShift);
    if (excess >= info.size || info.capacity * excess >= info.reciprocal) return false;
    // Without an excess every multiple of the size passes the test, so there must be none behind the last object.
    if (excess == 0 && info.capacity * std::size_t{info.size} != length) return false;
    if (kClassBySize[info.size / 16] != index || kClassBySize[previous / 16 + 1] != index) return false;
  }
  return kSizeClasses[1].size == kSmallestObject && kSizeClasses[kSizeClassCount].size == kLargestSmall &&
         kClassBySize[0] == 1;
}
static_assert(size_classes_hold());

}  // namespace internal

// Precondition: size <= kLargestSmall.
constexpr SizeClass size_class_for(std::size_t size) { return {internal::kClassBySize[(size + 15) / 16]}; }

// Smallest class of at least `size` bytes whose objects are aligned to `alignment`, a power of two; no class (index 0)
// when only a span or a large run will do.
constexpr SizeClass size_class_for_aligned(std::size_t size, std::size_t alignment) {
  if (size > kLargestSmall || alignment > kLargestSmall) return {};
  SizeClass size_class = size_class_for(size > alignment ? size : alignment);
  while (info_of(size_class).size % alignment != 0) {
    if (++size_class.index > kSizeClassCount) return {};
  }
  return size_class;
}

// Which object of its slab begins at or before `offset`.
constexpr std::uint32_t object_index(const SizeClassInfo& info, std::uint32_t offset) {
  return static_cast<std::uint32_t>((offset * info.reciprocal) >> internal::kReciprocalShift);
}

// Whether an object begins at `offset` of its slab.
constexpr bool is_object_start(std::uint64_t offset, std::uint64_t start_test, std::uint32_t start_limit) {
  return offset * start_test >> internal::kFractionShift < start_limit;
}
constexpr bool is_object_start(const SizeClassInfo& info, std::uint64_t offset) {
  return is_object_start(offset, info.start_test, info.start_limit);
}

}  // namespace polder
