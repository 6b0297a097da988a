// What a hardened heap adds: see heap/heap.h.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

class HardenedHeapTest : public testing::Test {
 protected:
  static bool is_zero(const void* memory, std::size_t size) {
    const auto* const bytes = static_cast<const unsigned char*>(memory);
    return std::all_of(bytes, bytes + size, [](unsigned char byte) { return byte == 0; });
  }
  char* allocate(std::size_t size) {
    auto* const memory = static_cast<char*>(heap_->allocate(cache_, size));
    EXPECT_NE(memory, nullptr);
    std::memset(memory, 0xA5, size);
    return memory;
  }
  PageId page_after(const char* memory) { return heap_.arena().page_of(memory + heap_->usable_size(memory)); }
  bool is_guard(const char* memory) { return heap_.backing().is_guard(heap_.arena().page_of(memory)); }

  HeapInstance heap_{256 * kMiB, FakeBacking::Memory::real, frozen_clock, Hardening::on};
  Cache cache_{heap_};
};
using HardenedHeapDeathTest = HardenedHeapTest;

TEST_F(HardenedHeapTest, FreedObjectsAreZeroAndDoNotComeBackAtOnce) {
  for (const std::size_t size : {std::size_t{16}, std::size_t{100}, std::size_t{3000}, kLargestSmall}) {
    std::set<char*> freed;
    for (int i = 0; i < 20; ++i) freed.insert(allocate(size));
    for (char* const memory : freed) heap_->free(cache_, memory);
    for (char* const memory : freed) EXPECT_TRUE(is_zero(memory, size));
    for (int i = 0; i < 200; ++i) EXPECT_EQ(freed.count(allocate(size)), 0U);
  }
  EXPECT_EQ(heap_->quarantine().statistics().entries, 80U);
  heap_->verify();
}

TEST_F(HardenedHeapTest, WholePagesAreClearedByTheBacking) {
  char* const memory = allocate(kPageSize);
  heap_->free(cache_, memory);
  EXPECT_EQ(heap_.backing().zeroed(), 1U);
  char* const small = allocate(1000);
  heap_->free(cache_, small);
  EXPECT_EQ(heap_.backing().zeroed(), 1U);
}

TEST_F(HardenedHeapTest, NoObjectReachesTheLastPageOfItsSlab) {
  for (unsigned index = 1; index <= kSizeClassCount; ++index) {
    const SizeClass size_class{static_cast<std::uint8_t>(index)};
    const SizeClassInfo& info = info_of(size_class);
    const std::size_t length = info.granules * kGranuleSize;
    for (std::uint32_t i = 0; i <= slab_shape(size_class, Hardening::on).capacity; ++i) {
      char* const memory = allocate(info.size);
      const std::size_t offset = reinterpret_cast<std::uintptr_t>(memory) % length;
      ASSERT_LE(offset + info.size, length - kPageSize);
      ASSERT_TRUE(is_guard(memory - offset + length - kPageSize));
    }
  }
  heap_->verify();
}

TEST_F(HardenedHeapTest, AGuardFollowsEverySpanAndLargeRun) {
  std::vector<char*> blocks;
  for (const std::size_t size :
       {20'000UL, 65'536UL, 524'288UL, 700'000UL, 1UL << 20, (1UL << 20) - 4096, 5'000'000UL}) {
    for (int i = 0; i < 3; ++i) {
      blocks.push_back(allocate(size));
      EXPECT_TRUE(heap_.backing().is_guard(page_after(blocks.back()))) << size;
      EXPECT_LT(heap_->usable_size(blocks.back()), size + kPageSize);
    }
  }
  heap_->verify();
  for (char* const block : blocks) {
    const std::size_t size = heap_->usable_size(block);
    heap_->free(cache_, block);
    if (size <= kMiB / 2) {
      EXPECT_TRUE(is_guard(block) && is_guard(block + size - 1)) << size;
    }
  }
  heap_->verify();
}

TEST_F(HardenedHeapTest, LargeRunsGrowShrinkAndMoveWithTheirGuard) {
  std::vector<char*> neighbours;
  char* memory = allocate(600'000);
  std::size_t size = 600'000;
  fill(memory, size, 1);
  for (const std::size_t next :
       {700'000UL, 3'000'000UL, 3'000'001UL, 1'000'000UL, 8'000'000UL, 600'000UL, 20'000'000UL}) {
    neighbours.push_back(allocate(600'000));  // in the way of some
    auto* const moved = static_cast<char*>(heap_->reallocate(cache_, memory, next));
    ASSERT_NE(moved, nullptr);
    ASSERT_TRUE(is_filled(moved, std::min(size, next), 1)) << next;
    EXPECT_TRUE(heap_.backing().is_guard(page_after(moved))) << next;
    memory = moved;
    size = next;
    fill(memory, size, 1);
    heap_->verify();
  }
  heap_->free(cache_, memory);
  for (char* const neighbour : neighbours) heap_->free(cache_, neighbour);
}

TEST_F(HardenedHeapTest, PlacesAreRandom) {
  std::set<std::size_t> first;
  for (int round = 0; round < 40; ++round) {
    HeapInstance heap{64 * kMiB, FakeBacking::Memory::real, frozen_clock, Hardening::on};
    auto* const memory = static_cast<char*>(heap->allocate(ThreadCache::empty(), 1024));
    first.insert(static_cast<std::size_t>(memory - heap.arena().base()));
  }
  EXPECT_GT(first.size(), 15U);  // of 60 places

  std::vector<char*> objects;
  for (int i = 0; i < 60; ++i) objects.push_back(allocate(1024));
  EXPECT_FALSE(std::is_sorted(objects.begin(), objects.end()));
  EXPECT_EQ(std::set<char*>(objects.begin(), objects.end()).size(), 60U);
}

TEST_F(HardenedHeapTest, EveryObjectOfASlabIsFound) {
  constexpr std::size_t kSize = 48;
  const std::uint32_t capacity = slab_shape(size_class_for(kSize), Hardening::on).capacity;
  std::set<char*> objects;
  for (std::uint32_t i = 0; i < capacity; ++i) objects.insert(allocate(kSize));
  EXPECT_EQ(objects.size(), capacity);
  EXPECT_LT(*objects.rbegin() - *objects.begin(), static_cast<std::ptrdiff_t>(kGranuleSize));  // one slab
}

TEST_F(HardenedHeapTest, TrimAndNeedEmptyTheQuarantine) {
  std::vector<char*> objects;
  for (int i = 0; i < 800; ++i) objects.push_back(allocate(1000));
  for (char* const object : objects) heap_->free(cache_, object);
  EXPECT_EQ(heap_->quarantine().statistics().entries, 800U);
  const std::uint64_t needed = heap_.backing().provided();
  EXPECT_GT(needed, 190U);
  heap_.backing().set_capacity(needed);
  char* const span = allocate(128 * kPageSize);
  EXPECT_EQ(heap_->quarantine().statistics().entries, 0U);
  heap_->free(cache_, span);
  EXPECT_EQ(heap_->quarantine().statistics().entries, 1U);
  heap_->trim(cache_);
  EXPECT_EQ(heap_->quarantine().statistics().entries, 0U);
}

TEST_F(HardenedHeapTest, QuarantineStaysWithinItsBound) {
  for (int round = 0; round < 300; ++round) {
    heap_->free(cache_, allocate(8'000));
    heap_->free(cache_, allocate(16'000));
    heap_->free(cache_, allocate(100'000));
    heap_->free(cache_, allocate(600'000));
    if (round % 20 == 0) heap_->free(cache_, allocate(9 * kMiB));  // weighs more than half of the bound: does not wait
    EXPECT_LE(heap_->quarantine().statistics().weight, kMiB);
  }
  EXPECT_GT(heap_->quarantine().statistics().weight, kMiB / 2);
}

TEST_F(HardenedHeapTest, WorksWithoutACacheAndLeavesNothing) {
  std::vector<void*> blocks;
  for (std::size_t size = 1; size < 4 * kMiB; size = size * 3 / 2 + 1) {
    blocks.push_back(heap_->allocate(ThreadCache::empty(), size));
    blocks.push_back(heap_->allocate_aligned(cache_, size, 8192));
    blocks.push_back(heap_->allocate_zeroed(cache_, size));
    EXPECT_TRUE(is_zero(blocks.back(), size));
  }
  for (void* const block : blocks) heap_->free(ThreadCache::empty(), block);
  heap_.expect_empty();
  EXPECT_EQ(heap_.backing().guards(), 0U);
}

TEST_F(HardenedHeapTest, AForkedChildChoosesOtherPlaces) {
  static_cast<void>(heap_->allocate(cache_, 64));
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  heap_->lock_for_fork();
  const pid_t child = fork();
  std::array<void*, 16> mine;
  if (child == 0) {
    heap_->reset_after_fork_child(cache_);
    for (void*& object : mine) object = heap_->allocate(cache_, 64);
    _exit(write(ends[1], mine.data(), sizeof mine) == sizeof mine ? 0 : 1);
  }
  heap_->unlock_after_fork_parent();
  for (void*& object : mine) object = heap_->allocate(cache_, 64);
  std::array<void*, 16> its;
  ASSERT_EQ(read(ends[0], its.data(), sizeof its), static_cast<ssize_t>(sizeof its));
  EXPECT_NE(mine, its);
  waitpid(child, nullptr, 0);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(HardenedHeapDeathTest, DoubleFreesAreFoundAtOnce) {
  for (const std::size_t size : {100UL, 10'000UL, 100'000UL, 500'000UL, 1UL << 20}) {
    char* const memory = allocate(size);
    char* const other = allocate(size);
    heap_->free(cache_, memory);
    heap_->free(cache_, other);
    EXPECT_DEATH(heap_->free(cache_, memory), "double free of 0x") << size;
    EXPECT_DEATH(heap_->free(ThreadCache::empty(), other), "double free of 0x") << size;
  }
}

TEST_F(HardenedHeapDeathTest, FreedObjectsAreNotResizedOrMeasured) {
  char* const memory = allocate(100);
  heap_->free(cache_, memory);
  EXPECT_DEATH(static_cast<void>(heap_->reallocate(cache_, memory, 100)), "realloc of 0x.*, which has been freed");
  EXPECT_DEATH(static_cast<void>(heap_->usable_size(memory)), "malloc_usable_size of 0x.*, which has been freed");
}

TEST_F(HardenedHeapDeathTest, WhatWouldReachTheGuardIsNoObject) {
  constexpr std::size_t kSize = 1024;
  const char* const memory = allocate(kSize);
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(memory) | (kGranuleSize - 1)) + 1;
  EXPECT_DEATH(heap_->free(cache_, reinterpret_cast<void*>(end - kSize)), "not the start of an allocation");
}

TEST_F(HardenedHeapDeathTest, WritesAfterFreeAreNamed) {
  for (const std::size_t size : {std::size_t{16}, std::size_t{1000}, kLargestSmall - 192}) {
    char* const memory = allocate(size);
    heap_->free(cache_, memory);
    EXPECT_DEATH(
        {
          memory[size - 1] = 1;
          heap_->trim(cache_);
        },
        "0x.* was written to after free");
  }
}

TEST_F(HardenedHeapDeathTest, WithoutGuardsWritesToFreedPagesAreNamed) {
  heap_.backing().refuse_guards();
  for (const std::size_t size : {100'000UL, 600'000UL}) {
    char* const memory = allocate(size);
    heap_->free(cache_, memory);
    EXPECT_EQ(heap_->quarantine().statistics().entries, 1U);
    EXPECT_DEATH(
        {
          memory[size - 1] = 1;
          heap_->trim(cache_);
        },
        "0x.* was written to after free");
    heap_->trim(cache_);
    heap_->verify();
  }
}

}  // namespace
}  // namespace polder
