// Which of a class's central lists serves whom.
#include "heap/centrals.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

constexpr std::size_t kSize = 512;
const SizeClass kClass = size_class_for(kSize);

unsigned processor = 0;
unsigned processors = 4;

class CentralsTest : public testing::Test {
 protected:
  CentralsTest() {
    processor = 0;
    processors = 4;
  }

  // As a thread of its own, from a central list: not from what a thread before it may have left.
  void* allocate_on(unsigned on) {
    processor = on;
    const Cache thread(heap_);
    return heap_->allocate(ThreadCache::empty(), kSize);
  }
  void free_on(unsigned on, void* object) {
    processor = on;
    heap_->free(ThreadCache::empty(), object);
  }
  GranuleId slab_of(const void* object) { return granule_of(heap_.arena().page_of(object)); }
  std::uint64_t slabs() {
    Heap::Statistics statistics;
    heap_->statistics(statistics);
    return statistics.classes[kClass.index - 1].slabs;
  }

  HeapInstance heap_{std::size_t{64} << 20,
                     FakeBacking::Memory::none,
                     frozen_clock,
                     Hardening::off,
                     {.limit = [] { return processors; }, .current = [] { return processor; }}};
};

TEST_F(CentralsTest, ASingleThreadHasOneListWhereverItRuns) {
  void* const first = allocate_on(0);
  void* const second = allocate_on(1);
  EXPECT_EQ(slab_of(first), slab_of(second));
  EXPECT_EQ(slabs(), 1U);
  free_on(2, first);
  free_on(3, second);
  heap_.expect_empty();
}

TEST_F(CentralsTest, ProcessorsFillSlabsOfTheirOwn) {
  const Cache other_thread(heap_);
  const unsigned capacity = info_of(kClass).capacity;
  std::vector<void*> all;
  for (unsigned i = 0; i < 2 * capacity; ++i) all.push_back(allocate_on(0));
  // Half of either slab is free.
  for (unsigned i = 0; i < 2 * capacity; i += 2) free_on(0, all[i]);
  std::set<std::uint32_t> slabs_of[2];
  for (unsigned i = 0; i < capacity; ++i) {
    const unsigned on = 1 - i % 2;
    all[2 * i] = allocate_on(on);
    slabs_of[on].insert(slab_of(all[2 * i]).value);
  }
  EXPECT_EQ(slabs_of[0].size(), 1U);
  EXPECT_EQ(slabs_of[1].size(), 1U);
  EXPECT_NE(slabs_of[0], slabs_of[1]);
  EXPECT_EQ(slabs(), 2U);
  heap_->verify();
  for (void* const object : all) free_on(2, object);
  heap_.expect_empty();
}

TEST_F(CentralsTest, NoListMakesASlabWhileAnotherHasFreeObjects) {
  const Cache other_thread(heap_);
  std::vector<void*> objects;
  for (unsigned i = 0; i < info_of(kClass).capacity; ++i) objects.push_back(allocate_on(i % processors));
  EXPECT_EQ(slabs(), 1U);
  heap_->verify();
  objects.push_back(allocate_on(0));
  EXPECT_EQ(slabs(), 2U);
  for (void* const object : objects) free_on(1, object);
  heap_.expect_empty();
}

TEST_F(CentralsTest, WhatIsFreedElsewhereComesBack) {
  const Cache other_thread(heap_);
  void* const object = allocate_on(3);
  free_on(0, object);
  EXPECT_EQ(allocate_on(3), object);
  free_on(1, object);
  heap_.expect_empty();
}

TEST_F(CentralsTest, AfterTheLastOtherThreadNothingIsOutOfReach) {
  std::vector<void*> objects;
  {
    const Cache other_thread(heap_);
    for (unsigned i = 0; i < info_of(kClass).capacity; ++i) objects.push_back(allocate_on(1));
    for (int i = 0; i < 10; ++i) {
      free_on(1, objects.back());
      objects.pop_back();
    }
  }
  for (int i = 0; i < 10; ++i) objects.push_back(allocate_on(2));
  EXPECT_EQ(slabs(), 1U);
  for (void* const object : objects) free_on(1, object);
  heap_.expect_empty();
}

TEST_F(CentralsTest, MoreProcessorsThanLists) {
  processors = 1000;
  const Cache other_thread(heap_);
  std::vector<void*> objects;
  for (unsigned i = 0; i < 1000; ++i) objects.push_back(allocate_on(i));
  heap_->verify();
  for (unsigned i = 0; i < 1000; ++i) free_on(999 - i, objects[i]);
  heap_.expect_empty();
}

// Its main thread may run on the first only: then that is all the process has, until a thread comes to another.
TEST_F(CentralsTest, ProcessorsBeyondTheMainThreads) {
  processors = 1;
  const Cache other_thread(heap_);
  void* const first = allocate_on(3);
  for (unsigned i = 1; i < info_of(kClass).capacity / 2; ++i) static_cast<void>(allocate_on(3));
  std::vector<void*> all;
  for (unsigned i = 0; i < info_of(kClass).capacity; ++i) all.push_back(allocate_on(2));
  for (std::size_t i = 0; i + 1 < all.size(); i += 2) free_on(0, all[i]);
  heap_->verify();
  static_cast<void>(first);
}

TEST_F(CentralsTest, AProcessorThatCameLater) {
  processors = 2;
  const Cache other_thread(heap_);
  void* const object = allocate_on(63);
  free_on(17, object);
  heap_.expect_empty();
}

}  // namespace
}  // namespace polder
