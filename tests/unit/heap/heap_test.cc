#include "heap/heap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

bool is_zero(const void* memory, std::size_t size) {
  const auto* const bytes = static_cast<const unsigned char*>(memory);
  return std::all_of(bytes, bytes + size, [](unsigned char byte) { return byte == 0; });
}

std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

class HeapTest : public testing::Test {
 protected:
  HeapInstance heap_{256 * kMiB};
};

TEST_F(HeapTest, ObjectsAreAlignedDistinctAndAsLargeAsAsked) {
  const Cache cache(heap_);
  std::vector<std::pair<char*, std::size_t>> all;
  for (std::size_t size : {0U, 1U, 8U, 15U, 16U, 17U, 100U, 1000U, 1009U, 4096U, 8192U, 8193U, 32768U, 32769U, 100'000U,
                           1U << 20, 5'000'000U}) {
    for (int i = 0; i < 5; ++i) {
      auto* const object = static_cast<char*>(heap_->allocate(cache, size));
      ASSERT_NE(object, nullptr);
      ASSERT_EQ(address(object) % 16, 0U);
      ASSERT_GE(heap_->usable_size(object), std::max<std::size_t>(size, 16));
      fill(object, heap_->usable_size(object), address(object));
      all.emplace_back(object, heap_->usable_size(object));
    }
  }
  heap_->verify();
  for (const auto& [object, size] : all) {
    EXPECT_TRUE(is_filled(object, size, address(object)));
    heap_->free(cache, object);
  }
  heap_->trim(cache);
  heap_.expect_empty();
}

TEST_F(HeapTest, FreshSlabsAreHandedOutInAscendingOrder) {
  const Cache cache(heap_);
  const char* previous = nullptr;
  for (int i = 0; i < 1000; ++i) {
    const auto* const object = static_cast<char*>(heap_->allocate(cache, 64));
    if (previous != nullptr) {
      ASSERT_EQ(object, previous + 64);
    }
    previous = object;
  }
}

TEST_F(HeapTest, LastFreedIsFirstReused) {
  const Cache cache(heap_);
  void* const object = heap_->allocate(cache, 100);
  void* const other = heap_->allocate(cache, 100);
  heap_->free(cache, object);
  heap_->free(cache, other);
  EXPECT_EQ(heap_->allocate(cache, 100), other);
  EXPECT_EQ(heap_->allocate(cache, 100), object);
}

TEST_F(HeapTest, WorksWithoutACache) {
  ThreadCache* const none = ThreadCache::empty();
  std::set<void*> all;
  for (int i = 0; i < 5000; ++i) {
    void* const object = heap_->allocate(none, 48);
    ASSERT_NE(object, nullptr);
    ASSERT_TRUE(all.insert(object).second);
  }
  void* const large = heap_->allocate(none, 200'000);
  heap_->verify();
  for (void* const object : all) heap_->free(none, object);
  heap_->free(none, large);
  heap_.expect_empty();
}

TEST_F(HeapTest, OnlyPagesWithObjectsAreProvided) {
  ThreadCache* const none = ThreadCache::empty();
  void* const small = heap_->allocate(none, 4384);  // 14 to a slab, which leaves a page of two granules
  EXPECT_EQ(heap_.backing().provided(), 2 * kPagesPerGranule - 1);
  heap_->free(none, small);
  heap_->trim();
  void* const large = heap_->allocate(none, 70'000);
  EXPECT_EQ(heap_.backing().provided(), 18U);
  EXPECT_EQ(heap_->usable_size(large), 18 * kPageSize);
  heap_->free(none, large);
  heap_.expect_empty();
}

TEST_F(HeapTest, AlignsToEveryPowerOfTwo) {
  const Cache cache(heap_);
  std::vector<void*> all;
  for (std::size_t alignment = 1; alignment <= 64 * kMiB; alignment *= 2) {
    for (const std::size_t size : {0U, 1U, 24U, 3000U, 40'000U, 70'000U}) {
      void* const object = heap_->allocate_aligned(cache, size, alignment);
      ASSERT_NE(object, nullptr) << size << " aligned to " << alignment;
      EXPECT_EQ(address(object) % alignment, 0U);
      EXPECT_EQ(address(object) % 16, 0U);
      ASSERT_GE(heap_->usable_size(object), size);
      fill(object, size, address(object));
      if (alignment > kMiB) {
        EXPECT_TRUE(is_filled(object, size, address(object)));
        heap_->free(cache, object);
      } else {
        all.push_back(object);
      }
    }
  }
  heap_->verify();
  for (void* const object : all) heap_->free(cache, object);
  EXPECT_EQ(heap_->allocate_aligned(cache, 16, std::size_t{1} << 50), nullptr);
  EXPECT_EQ(heap_->allocate_aligned(cache, std::size_t{1} << 50, 16), nullptr);
  heap_->trim(cache);
  heap_.expect_empty();
}

// 224 MiB: such an arena is aligned to 32 MiB, so that 64 MiB may need room to move in.
TEST(HeapAlignment, GoesBeyondTheArenasOwn) {
  for (int attempt = 0; attempt < 4; ++attempt) {
    HeapInstance heap(224 * kMiB);
    ThreadCache* const none = ThreadCache::empty();
    auto* const run = static_cast<char*>(heap->allocate_aligned(none, 100'000, 64 * kMiB));
    ASSERT_NE(run, nullptr);
    EXPECT_EQ(address(run) % (64 * kMiB), 0U);
    EXPECT_EQ(heap->usable_size(run), 25 * kPageSize);
    heap->verify();
    fill(run, 100'000, 7);
    auto* const grown = static_cast<char*>(heap->reallocate(none, run, 120'000));
    EXPECT_TRUE(is_filled(grown, 100'000, 7));
    heap->verify();
    heap->free(none, grown);
    heap.expect_empty();
  }
}

TEST_F(HeapTest, ZeroedMemoryIsZeroWhateverWasThere) {
  const Cache cache(heap_);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::pair<void*, std::size_t>> all;
    for (const std::size_t size : {0U, 1U, 100U, 5000U, 32768U, 40'000U, 300'000U, 9'000'000U}) {
      void* const memory = heap_->allocate_zeroed(cache, size);
      ASSERT_NE(memory, nullptr);
      ASSERT_TRUE(is_zero(memory, size)) << size;
      std::memset(memory, 0xFF, heap_->usable_size(memory));
      all.emplace_back(memory, size);
    }
    for (const auto& [memory, size] : all) heap_->free(cache, memory);
  }
}

TEST_F(HeapTest, FreshLargeRunsAreNotOverwrittenWithZeros) {
  HeapInstance untouchable(64 * kMiB, FakeBacking::Memory::none);
  EXPECT_NE(untouchable->allocate_zeroed(ThreadCache::empty(), 10 * kMiB), nullptr);
}

TEST_F(HeapTest, ReallocateKeepsContents) {
  const Cache cache(heap_);
  const std::size_t sizes[] = {1,      16,      17,      30,        100,       60,     1000,   999,    20'000, 40'000,
                               70'000, 130'000, 131'000, 2'000'000, 1'500'000, 50'000, 33'000, 20'000, 5'000,  10};
  char* object = static_cast<char*>(heap_->allocate(cache, 1));
  std::size_t held = 1;
  fill(object, held, 42);
  for (const std::size_t size : sizes) {
    object = static_cast<char*>(heap_->reallocate(cache, object, size));
    ASSERT_NE(object, nullptr);
    ASSERT_GE(heap_->usable_size(object), size);
    ASSERT_TRUE(is_filled(object, std::min(held, size), 42)) << held << " to " << size;
    fill(object, heap_->usable_size(object), 42);
    held = size;
    heap_->verify();
  }
  heap_->free(cache, object);
  heap_->trim(cache);
  heap_.expect_empty();
}

TEST_F(HeapTest, LargeRunsGrowWhereTheyAreWhileThatIsFree) {
  ThreadCache* const none = ThreadCache::empty();
  void* const run = heap_->allocate(none, 5 * kMiB);
  fill(run, 5 * kMiB, 1);
  EXPECT_EQ(heap_->reallocate(none, run, 8 * kMiB), run);
  EXPECT_EQ(heap_.backing().provided(), 8 * kMiB / kPageSize);
  EXPECT_EQ(heap_->reallocate(none, run, 9 * kMiB), run);
  EXPECT_TRUE(is_filled(run, 5 * kMiB, 1));
  heap_->verify();
  void* const wall = heap_->allocate(none, 7 * kMiB);
  EXPECT_EQ(wall, static_cast<char*>(run) + 9 * kMiB);
  void* const moved = heap_->reallocate(none, run, 17 * kMiB);
  EXPECT_NE(moved, run);
  EXPECT_TRUE(is_filled(moved, 5 * kMiB, 1));
  EXPECT_EQ(heap_.buddy().dirty().value, 0U);  // its pages moved along
  heap_->free(none, moved);
  heap_->free(none, wall);
  heap_.expect_empty();
}

TEST_F(HeapTest, WhatAnEarlierOwnerLeftBesideMovedPagesIsNotForgotten) {
  ThreadCache* const none = ThreadCache::empty();
  void* const earlier = heap_->allocate(none, 8 * kMiB);
  void* const wall = heap_->allocate(none, 2 * kMiB);
  fill(earlier, 8 * kMiB, 1);
  heap_->free(none, earlier);
  void* const run = heap_->allocate(none, kMiB + 5 * kPageSize);
  EXPECT_EQ(run, earlier);
  void* const padded = heap_->allocate_aligned(none, kMiB, 4 * kMiB);
  ASSERT_LT(padded, wall);
  void* const moved = heap_->reallocate(none, run, 16 * kMiB);
  void* const moved_too = heap_->reallocate(none, padded, 17 * kMiB);
  EXPECT_NE(moved, run);
  EXPECT_NE(moved_too, padded);
  heap_->free(none, moved);
  heap_->free(none, moved_too);
  heap_->free(none, wall);
  heap_.expect_empty();
}

TEST_F(HeapTest, LargeRunsOfWhichSomePagesCannotMoveAreCopied) {
  ThreadCache* const none = ThreadCache::empty();
  heap_.backing().refuse_relocation_of_every(100);
  void* const run = heap_->allocate(none, 2 * kMiB);
  void* const wall = heap_->allocate(none, 2 * kMiB);
  fill(run, 2 * kMiB, 1);
  void* const moved = heap_->reallocate(none, run, 3 * kMiB);
  ASSERT_NE(moved, run);
  EXPECT_TRUE(is_filled(moved, 2 * kMiB, 1));
  EXPECT_EQ(heap_.buddy().dirty().value, 2 * kMiB / kGranuleSize);
  EXPECT_EQ(heap_.backing().provided(), 5 * kMiB / kPageSize);
  heap_->verify();
  heap_->free(none, moved);
  heap_->free(none, wall);
  heap_.expect_empty();
}

TEST_F(HeapTest, WhatGrowsAgainAndAgainDoesSoInTheSamePages) {
  const Cache cache(heap_);
  std::uint64_t dirty = 0;
  for (int round = 0; round < 50; ++round) {
    std::size_t size = 16;
    void* array = heap_->allocate(cache, size);
    while (size < kMiB) {
      size += size / 2;
      array = heap_->reallocate(cache, array, size);
    }
    heap_->free(cache, array);
    if (round == 3) dirty = heap_.buddy().dirty().value;
  }
  EXPECT_EQ(heap_.buddy().dirty().value, dirty);
  heap_->trim(cache);
  heap_.expect_empty();
}

TEST_F(HeapTest, LargeRunsGiveUpTheirEnd) {
  ThreadCache* const none = ThreadCache::empty();
  void* const run = heap_->allocate(none, 30 * kMiB);
  fill(run, 30 * kMiB, 1);
  EXPECT_EQ(heap_->reallocate(none, run, 20 * kMiB), run);
  EXPECT_EQ(heap_.backing().provided(), 20 * kMiB / kPageSize);
  EXPECT_LE(heap_.buddy().dirty().value, 16 * kMiB / kGranuleSize);
  heap_->verify();
  EXPECT_EQ(heap_->reallocate(none, run, 2 * kMiB + 5), run);
  EXPECT_EQ(heap_.buddy().allocated().value, 2 * kMiB / kGranuleSize + 1);
  EXPECT_TRUE(is_filled(run, 2 * kMiB, 1));
  heap_->verify();
  heap_->free(none, run);
  heap_.expect_empty();
}

// --- without memory ---------------------------------------------------------------------------------------------------

TEST_F(HeapTest, GivesNullWithoutMemoryAndLosesNothing) {
  const Cache cache(heap_);
  heap_.backing().set_capacity(1000);
  std::vector<std::pair<char*, std::size_t>> all;
  for (const std::size_t size : {600'000U, 50'000U, 20'000U, 3000U, 64U}) {
    while (auto* const object = static_cast<char*>(heap_->allocate(cache, size))) {
      fill(object, size, address(object));
      all.emplace_back(object, size);
    }
    heap_->verify();
  }
  heap_.backing().set_capacity(0);
  EXPECT_EQ(heap_->allocate_zeroed(cache, 64), nullptr);
  EXPECT_EQ(heap_->allocate_aligned(cache, 64, 64), nullptr);
  EXPECT_EQ(heap_->allocate_aligned(cache, 64, kMiB), nullptr);
  EXPECT_EQ(heap_->reallocate(cache, all.back().first, 2 * all.back().second + 100), nullptr);
  EXPECT_EQ(heap_->reallocate(cache, all.front().first, kMiB), nullptr);        // could grow in place
  EXPECT_EQ(heap_->reallocate(cache, all.front().first, 100 * kMiB), nullptr);  // would have to move
  EXPECT_EQ(heap_->allocate(cache, SIZE_MAX), nullptr);
  EXPECT_EQ(heap_->allocate(cache, SIZE_MAX / 2), nullptr);
  // Shrinking needs no memory.
  EXPECT_EQ(heap_->reallocate(cache, all.front().first, 10), all.front().first);
  all.front().second = 10;
  for (const auto& [object, size] : all)
    EXPECT_TRUE(is_filled(object, std::min<std::size_t>(size, 8), address(object)));
  heap_.backing().set_capacity(~std::uint64_t{0});
  void* const again = heap_->allocate(cache, 64);
  EXPECT_NE(again, nullptr);
  heap_->free(cache, again);
  for (const auto& [object, size] : all) heap_->free(cache, object);
  heap_->trim(cache);
  heap_.expect_empty();
}

TEST_F(HeapTest, IdleSlabsMakeRoomBeforeNull) {
  const Cache cache(heap_);
  std::vector<void*> all;
  for (int i = 0; i < 8 * 8; ++i) all.push_back(heap_->allocate(ThreadCache::empty(), 4096));
  for (int i = 0; i < 8; ++i, all.pop_back()) heap_->free(ThreadCache::empty(), all.back());  // the empty slab stays
  EXPECT_EQ(heap_.backing().provided(), 8 * kPagesPerGranule);
  heap_.backing().set_capacity(8 * kPagesPerGranule);
  void* const large = heap_->allocate(cache, kGranuleSize);
  EXPECT_NE(large, nullptr);
  heap_->free(cache, large);
  for (void* const object : all) heap_->free(ThreadCache::empty(), object);
}

TEST_F(HeapTest, GivesNullWithoutAddressSpace) {
  ThreadCache* const none = ThreadCache::empty();
  HeapInstance small(32 * kMiB, FakeBacking::Memory::none);
  EXPECT_EQ(small->allocate(none, 33 * kMiB), nullptr);
  void* const all = small->allocate(none, 32 * kMiB);
  EXPECT_NE(all, nullptr);
  EXPECT_EQ(small->allocate(none, 1), nullptr);
  EXPECT_EQ(small->allocate(none, 100'000), nullptr);
  small->free(none, all);
  void* const again = small->allocate(none, 1);
  EXPECT_NE(again, nullptr);
  small->free(none, again);
  small.expect_empty();
}

// --- what the heap may not do -----------------------------------------------------------------------------------------

TEST_F(HeapTest, NeitherMallocNorFreeTouchesTheObject) {
  HeapInstance untouchable(256 * kMiB, FakeBacking::Memory::none);
  {
    const Cache cache(untouchable);
    std::vector<void*> all;
    for (int round = 0; round < 3; ++round) {
      for (unsigned i = 0; i < 20'000; ++i) {
        void* const object = untouchable->allocate(cache, i * 7919 % (i % 100 == 0 ? 100'000 : 2000));
        ASSERT_NE(object, nullptr);
        all.push_back(object);
      }
      untouchable->verify();
      for (std::size_t i = 0; i < all.size(); i += 2) untouchable->free(cache, all[i]);
      for (std::size_t i = 1; i < all.size(); i += 2) untouchable->free(cache, all[i]);
      all.clear();
    }
    untouchable->trim(cache);
    void* const large = untouchable->allocate(cache, 5 * kMiB);
    EXPECT_EQ(untouchable->reallocate(cache, large, 7 * kMiB), large);
    untouchable->free(cache, large);
  }
  untouchable.expect_empty();
}

// --- idle memory ------------------------------------------------------------------------------------------------------

TEST_F(HeapTest, EmptySlabsGoBackButForOneOfMany) {
  ThreadCache* const none = ThreadCache::empty();
  std::vector<void*> all;
  constexpr int kPerSlab = kGranuleSize / 64;
  for (int i = 0; i < 10 * kPerSlab; ++i) all.push_back(heap_->allocate(none, 64));
  EXPECT_EQ(heap_.buddy().allocated().value, 10U);
  const auto free_slab = [&] {
    for (int i = 0; i < kPerSlab; ++i, all.pop_back()) heap_->free(none, all.back());
  };
  free_slab();
  EXPECT_EQ(heap_.buddy().allocated().value, 10U);
  for (int i = 0; i < 2; ++i) free_slab();
  EXPECT_EQ(heap_.buddy().allocated().value, 8U);
  while (!all.empty()) free_slab();
  EXPECT_EQ(heap_.buddy().allocated().value, 0U);
  heap_.expect_empty();
}

TEST_F(HeapTest, UnderPressureNoEmptySlabStays) {
  ThreadCache* const none = ThreadCache::empty();
  heap_.backing().set_under_pressure(true);
  void* const object = heap_->allocate(none, 64);
  heap_->free(none, object);
  EXPECT_EQ(heap_.buddy().allocated().value, 0U);
}

TEST_F(HeapTest, LargeRunsThatComeAndGoAreNotPurged) {
  ThreadCache* const none = ThreadCache::empty();
  void* const first = heap_->allocate(none, 100'000);
  heap_->free(none, first);
  for (int i = 0; i < 1000; ++i) {
    void* const run = heap_->allocate(none, 100'000);
    EXPECT_EQ(run, first);
    heap_->free(none, run);
  }
  EXPECT_EQ(heap_.backing().purges(), 0U);
}

TEST_F(HeapTest, RefillsTakeFromTheFullestSlab) {
  ThreadCache* const none = ThreadCache::empty();
  constexpr std::size_t kPerSlab = kGranuleSize / 1024;
  std::vector<char*> all;
  for (std::size_t i = 0; i < 3 * kPerSlab; ++i) all.push_back(static_cast<char*>(heap_->allocate(none, 1024)));
  // One object stays in the first slab, half in the second, all but two in the third.
  for (std::size_t i = 1; i < kPerSlab; ++i) heap_->free(none, all[i]);
  for (std::size_t i = kPerSlab; i < kPerSlab + kPerSlab / 2; ++i) heap_->free(none, all[i]);
  heap_->free(none, all[2 * kPerSlab + 2]);
  heap_->free(none, all[2 * kPerSlab + 3]);
  EXPECT_EQ(heap_->allocate(none, 1024), all[2 * kPerSlab + 2]);
  EXPECT_EQ(heap_->allocate(none, 1024), all[2 * kPerSlab + 3]);
  EXPECT_EQ(heap_->allocate(none, 1024), all[kPerSlab]);
}

// Below, a huge page that is not full would be much of what the heap has.
TEST(Heap, SlabsOfALargeHeapAreDense) {
  for (const Hardening hardening : {Hardening::off, Hardening::on}) {
    HeapInstance heap(512 * kMiB, FakeBacking::Memory::none, frozen_clock, hardening);
    ThreadCache* const empty = ThreadCache::empty();
    std::vector<void*> objects;
    const auto allocate = [&](std::size_t size, std::size_t bytes) {
      for (std::size_t done = 0; done < bytes; done += size) {
        objects.push_back(heap->allocate(empty, size));
        ASSERT_NE(objects.back(), nullptr);
      }
    };
    allocate(1024, 90 * kMiB);
    allocate(kMiB, 20 * kMiB);
    allocate(kMiB / 32, 25 * kMiB);
    EXPECT_EQ(heap.backing().dense().value, 0U);
    allocate(1024, 60 * kMiB);
    if (hardening == Hardening::off && !os::page_tables_are_shadowed()) {
      EXPECT_GE(heap.backing().dense(), pages_down(59 * kMiB));
    } else {
      EXPECT_EQ(heap.backing().dense().value, 0U);
    }
    if (hardening == Hardening::off) {
      for (void* const object : objects) heap->free(empty, object);
      heap.expect_empty();
    }
  }
}

// --- misuse -----------------------------------------------------------------------------------------------------------

class HeapDeathTest : public HeapTest, public testing::WithParamInterface<bool> {
 protected:
  HeapDeathTest() : cache_(GetParam() ? heap_->create_cache() : ThreadCache::empty()) {}

  char* allocate(std::size_t size) { return static_cast<char*>(heap_->allocate(cache_, size)); }

  ThreadCache* cache_;
};

TEST_P(HeapDeathTest, DoubleFreeAtOnce) {
  void* const object = allocate(100);
  heap_->free(cache_, object);
  EXPECT_DEATH(heap_->free(cache_, object), "double free");
}

TEST_P(HeapDeathTest, DoubleFreeSeenAtTheFlushAtTheLatest) {
  void* const object = allocate(100);
  void* const other = allocate(100);
  EXPECT_DEATH(
      {
        heap_->free(cache_, object);
        heap_->free(cache_, other);
        heap_->free(cache_, object);
        heap_->trim(cache_);
      },
      "double free");
}

TEST_P(HeapDeathTest, DoubleFreeByTwoThreads) {
  void* const object = allocate(100);
  ThreadCache* const other = heap_->create_cache();
  EXPECT_DEATH(
      {
        heap_->free(cache_, object);
        heap_->free(other, object);
        heap_->trim(cache_);
        heap_->trim(other);
      },
      "double free");
}

TEST_P(HeapDeathTest, DoubleFreeOfWhatWentBack) {
  void* const small = allocate(5000);
  void* const large = allocate(500'000);
  heap_->free(cache_, small);
  heap_->free(cache_, large);
  heap_->trim(cache_);
  EXPECT_DEATH(heap_->free(cache_, small), "double free");
  EXPECT_DEATH(heap_->free(cache_, large), "double free");
}

TEST_P(HeapDeathTest, InteriorPointers) {
  for (const std::size_t size : {100U, 5000U, 20'000U, 100'000U}) {
    char* const object = allocate(size);
    for (const std::ptrdiff_t distance : {1, 8, 16, 48}) {
      EXPECT_DEATH(heap_->free(cache_, object + distance), "free of 0x.* not the start of an allocation");
    }
    EXPECT_DEATH((void)heap_->reallocate(cache_, object + 16, 10), "realloc of 0x.* not the start of an allocation");
    EXPECT_DEATH((void)heap_->usable_size(object + 16), "malloc_usable_size of 0x.* not the start");
  }
  char* const large = allocate(kMiB);
  EXPECT_DEATH(heap_->free(cache_, large + kGranuleSize), "not the start of an allocation");
  char* const tail = allocate(4384);  // 14 to a slab, then a page without objects
  EXPECT_DEATH(heap_->free(cache_, tail + 14 * 4384), "not the start of an allocation");
}

TEST_P(HeapDeathTest, PointersThatWereNeverHandedOut) {
  char* const object = allocate(100);
  EXPECT_DEATH(heap_->free(cache_, object + 100 * kMiB), "free of 0x.* did not hand out");
  EXPECT_DEATH((void)heap_->reallocate(cache_, object + 100 * kMiB, 10), "realloc of 0x.* did not hand out");
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutCache, HeapDeathTest, testing::Bool());

}  // namespace
}  // namespace polder
