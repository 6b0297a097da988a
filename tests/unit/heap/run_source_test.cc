// How much free memory the heap keeps resident.
#include "heap/run_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(RunSource, WhatIsDirtyStaysBelowWhatIsInUse) {
  HeapInstance heap(1024 * kMiB, FakeBacking::Memory::none);
  ThreadCache* const none = ThreadCache::empty();
  std::vector<void*> all;
  for (int i = 0; i < 250; ++i) all.push_back(heap->allocate(none, 2 * kMiB));
  std::size_t used = 500;
  for (void* const run : all) {
    heap->free(none, run);
    used -= 2;
    EXPECT_LE(heap.buddy().dirty().value, std::max<std::size_t>(128, used) * kMiB / kGranuleSize);
  }
  EXPECT_GT(heap.backing().purges(), 0U);
  EXPECT_LT(heap.backing().purges(), 150U);
}

TEST(RunSource, WhatIsResidentStaysNearTheMostThatWasInUse) {
  HeapInstance heap(1024 * kMiB, FakeBacking::Memory::none, [] { return std::uint64_t{1}; });
  ThreadCache* const none = ThreadCache::empty();
  // Each time of a length that does not fit where the last one was.
  std::size_t most = 0;
  for (std::size_t length = 1; length < 9; ++length) {
    std::vector<void*> all;
    for (std::size_t i = 0; i < 40 / length; ++i) all.push_back(heap->allocate(none, length * kMiB + 70'000 * length));
    for (std::size_t i = 0; i < all.size(); i += 2) heap->free(none, all[i]);
    for (std::size_t i = 1; i < all.size(); i += 2) heap->free(none, all[i]);
    most = std::max<std::size_t>(most, heap.buddy().dirty().value);
  }
  EXPECT_LE(most, (44 * 17 / 16 + 4) * kMiB / kGranuleSize);
  heap.expect_empty();
}

TEST(RunSource, WhatWasDirtyAllTheTimeIsPurgedBitByBit) {
  static std::uint64_t now = 1;
  HeapInstance heap(256 * kMiB, FakeBacking::Memory::real, [] { return now; });
  ThreadCache* const none = ThreadCache::empty();
  const auto dirty = [&] { return heap.buddy().dirty().value * kGranuleSize / kMiB; };
  std::vector<void*> all;
  for (int i = 0; i < 32; ++i) all.push_back(heap->allocate(none, kMiB));
  for (void* const run : all) heap->free(none, run);
  EXPECT_EQ(dirty(), 32U);
  // Needed up to eight at a time: the other 24 are idle.
  for (int round = 0; round < 50; ++round) {
    now += 100'000'000;
    for (int i = 0; i < 8; ++i) all[static_cast<std::size_t>(i)] = heap->allocate(none, kMiB);
    for (int i = 0; i < 8; ++i) heap->free(none, all[static_cast<std::size_t>(i)]);
    if (round == 5) {
      EXPECT_GE(dirty(), 18U);  // half of the 24
      EXPECT_LE(dirty(), 22U);
    }
  }
  EXPECT_GE(dirty(), 8U);
  EXPECT_LE(dirty(), 10U);
  // Nothing needs them: they go, but for what is not worth a system call.
  for (int round = 0; round < 20; ++round) {
    now += 1'000'000'000;
    heap->free(none, heap->allocate(none, 64));
  }
  EXPECT_LE(dirty(), 1U);
  heap.expect_empty();
}

}  // namespace
}  // namespace polder
