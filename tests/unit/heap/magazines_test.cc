#include "heap/thread_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

class MagazinesTest : public testing::Test {
 protected:
  HeapInstance heap_{256 * kMiB};
};

TEST_F(MagazinesTest, MagazinesStartSmallAndStayBounded) {
  const Cache cache(heap_);
  Heap::Statistics statistics;
  void* const object = heap_->allocate(cache, 64);
  heap_->statistics(statistics);
  EXPECT_LE(statistics.small_bytes, 4U * 64);
  EXPECT_EQ(statistics.thread_caches, 1U);
  heap_->free(cache, object);

  std::vector<void*> all;
  for (int i = 0; i < 20'000; ++i) all.push_back(heap_->allocate(cache, 64));
  for (void* const each : all) heap_->free(cache, each);
  heap_->statistics(statistics);
  EXPECT_LE(statistics.small_bytes, 64U << 10);
  heap_->trim(cache);
  heap_.expect_empty();
}

TEST_F(MagazinesTest, UnderPressureMagazinesAreSmallerAlsoThoseFromBefore) {
  const Cache cache(heap_);
  const auto kept = [&](unsigned objects) {
    std::vector<void*> all;
    for (unsigned i = 0; i < objects; ++i) all.push_back(heap_->allocate(cache, 64));
    for (void* const each : all) heap_->free(cache, each);
    Heap::Statistics statistics;
    heap_->statistics(statistics);
    return statistics.small_bytes;
  };
  EXPECT_GT(kept(200'000), 32U << 10);
  heap_.backing().set_under_pressure(true);
  EXPECT_LE(kept(20'000), 16U << 10);
}

// A thread that takes and gives back a thousand objects at a time soon goes to the central list once for all of them, or
// not at all, and what idles gives the room to others.
TEST_F(MagazinesTest, MagazinesThatAreFullAndEmptyInTurnGrow) {
  const Cache cache(heap_);
  const auto refills = [this](SizeClass size_class) {
    Heap::Statistics statistics;
    heap_->statistics(statistics);
    return statistics.classes[size_class.index - 1].refills;
  };
  const auto take_and_give = [&](std::size_t size, unsigned number) {
    std::vector<void*> all;
    for (unsigned i = 0; i < number; ++i) all.push_back(heap_->allocate(cache, size));
    for (void* const each : all) heap_->free(cache, each);
  };
  const auto refills_at_last = [&](std::size_t size, unsigned number) {
    for (int round = 0; round < 20; ++round) take_and_give(size, number);
    const std::uint64_t before = refills(size_class_for(size));
    for (int round = 0; round < 20; ++round) take_and_give(size, number);
    return refills(size_class_for(size)) - before;
  };
  EXPECT_EQ(refills_at_last(64, 1000), 0U);
  // There is not as much for a second class …
  const std::uint64_t without = refills_at_last(80, 400);
  EXPECT_GT(without, 20U);
  // … before the first has been idle for long enough.
  for (int round = 0; round < 400; ++round) take_and_give(kLargestSmall, 10);
  EXPECT_LT(refills_at_last(80, 400), without);
  Heap::Statistics statistics;
  heap_->statistics(statistics);
  EXPECT_LE(statistics.small_bytes, 3 * (64U << 10));
  heap_->trim(cache);
  heap_.expect_empty();
}

// A few objects that a thread keeps of a class may be the last of as many slabs: who goes on with other objects gives them
// back before there is much more memory, small or large as these objects are.
TEST_F(MagazinesTest, IdleMagazinesAreFoundBeforeTheHeapHasGrown) {
  const Cache cache(heap_);
  std::vector<void*> objects;
  for (int i = 0; i < 10'000; ++i) objects.push_back(heap_->allocate(cache, 80));
  for (void* const object : objects) heap_->free(cache, object);
  const auto handed_out = [&] {
    Heap::Statistics statistics;
    heap_->statistics(statistics);
    return statistics.classes[size_class_for(80).index - 1].handed_out;
  };
  EXPECT_GT(handed_out(), 50U);
  objects.clear();
  for (std::size_t bytes = 0; bytes < 4 * kMiB; bytes += 4096) objects.push_back(heap_->allocate(cache, 4096));
  EXPECT_EQ(handed_out(), 0U);
  for (void* const object : objects) heap_->free(cache, object);
}

TEST_F(MagazinesTest, CachesComeAndGo) {
  std::vector<ThreadCache*> caches;
  std::vector<void*> objects;
  for (int i = 0; i < 50; ++i) {
    caches.push_back(heap_->create_cache());
    for (std::size_t size = 1; size < 40'000; size = size * 3 / 2 + 1) {
      objects.push_back(heap_->allocate(caches.back(), size));
    }
  }
  heap_->verify();
  // Every object goes into the last cache, the others leave in an order of their own.
  for (void* const object : objects) heap_->free(caches.back(), object);
  for (std::size_t i = 0; i < caches.size(); i += 2) heap_->destroy_cache(caches[i]);
  heap_->verify();
  for (std::size_t i = caches.size() - 1; i < caches.size(); i -= 2) heap_->destroy_cache(caches[i]);
  heap_.expect_empty();
}

// Threads that end after little work, and what they leave to the next.
class CachesHandedOverTest : public MagazinesTest {
 protected:
  static constexpr std::size_t kSize = 64;

  Heap::ClassStatistics statistics() {
    Heap::Statistics statistics;
    heap_->statistics(statistics);
    return statistics.classes[size_class_for(kSize).index - 1];
  }
  // What a thread does that ends soon.
  void do_little() {
    const Cache cache(heap_);
    heap_->free(cache, heap_->allocate(cache, kSize));
  }
};

TEST_F(CachesHandedOverTest, TheNextThreadFindsItsObjectsThere) {
  do_little();
  const Heap::ClassStatistics before = statistics();
  EXPECT_GT(before.handed_out, 0U);
  for (int thread = 0; thread < 100; ++thread) do_little();
  const Heap::ClassStatistics after = statistics();
  EXPECT_EQ(after.refills, before.refills);
  EXPECT_EQ(after.flushes, before.flushes);
  EXPECT_EQ(after.handed_out, before.handed_out);
  heap_->verify();
  heap_->trim();
  heap_.expect_empty();
}

TEST_F(CachesHandedOverTest, WhatTheThreadAllocatedItselfIsReused) {
  do_little();
  const Cache cache(heap_);
  void* const object = heap_->allocate(cache, kSize);
  heap_->free(cache, object);
  EXPECT_EQ(heap_->allocate(cache, kSize), object);
  heap_->free(cache, object);
}

// Reused, it would make the thread write beside what is another's.
TEST_F(CachesHandedOverTest, WhatAnotherThreadAllocatedIsNot) {
  const Cache other(heap_);
  void* const object = heap_->allocate(other, kSize);
  do_little();
  const Cache cache(heap_);
  EXPECT_GT(cache->count(size_class_for(kSize)), 0U);
  heap_->free(cache, object);
  void* const next = heap_->allocate(cache, kSize);
  EXPECT_NE(next, object);
  heap_->free(cache, next);
  EXPECT_NE(heap_->allocate(cache, kSize), object);
  heap_->free(cache, next);
}

TEST_F(CachesHandedOverTest, NorWhenItsMagazineWasEmptiedMeanwhile) {
  const Cache other(heap_);
  void* const object = heap_->allocate(other, kSize);
  do_little();
  const Cache cache(heap_);
  ASSERT_GT(cache->count(size_class_for(kSize)), 0U);
  heap_->trim(cache);
  heap_->free(cache, object);
  void* const next = heap_->allocate(cache, kSize);
  EXPECT_NE(next, object);
  heap_->free(cache, next);
}

// Every thread frees what its creator allocated for it: together more than an outgoing buffer holds.
TEST_F(CachesHandedOverTest, NorWhenThreadsBeforeFreedAsMuch) {
  const Cache other(heap_);
  std::vector<void*> objects;
  for (int i = 0; i < 50; ++i) objects.push_back(heap_->allocate(other, kSize));
  for (void* const object : objects) {
    const Cache cache(heap_);
    heap_->free(cache, object);
    EXPECT_EQ(cache->count(size_class_for(kSize)), 0U);
  }
}

TEST_F(CachesHandedOverTest, WhatTheThreadUsedIsItsOwnAfterASweep) {
  do_little();
  const Cache cache(heap_);
  void* const object = heap_->allocate(cache, kSize);
  std::vector<void*> objects;
  for (std::size_t bytes = 0; bytes < 4 * kMiB; bytes += 4096) objects.push_back(heap_->allocate(cache, 4096));
  heap_->free(cache, object);
  objects.push_back(heap_->allocate(cache, kSize));
  EXPECT_EQ(objects.back(), object);
  for (void* const each : objects) heap_->free(cache, each);
}

TEST_F(CachesHandedOverTest, NobodyKeepsMuch) {
  // One thread has room for much, a hundred at once have room for little.
  {
    const Cache cache(heap_);
    std::vector<void*> objects;
    for (int i = 0; i < 1000; ++i) objects.push_back(heap_->allocate(cache, kSize));
    for (void* const object : objects) heap_->free(cache, object);
  }
  EXPECT_EQ(statistics().handed_out, 0U);
  {
    std::vector<std::unique_ptr<Cache>> caches;
    for (int i = 0; i < 100; ++i) {
      caches.push_back(std::make_unique<Cache>(heap_));
      heap_->free(*caches.back(), heap_->allocate(*caches.back(), kSize));
    }
  }
  EXPECT_LE(statistics().handed_out, 32U);
  heap_.backing().set_under_pressure(true);
  heap_->trim();
  do_little();
  EXPECT_EQ(statistics().handed_out, 0U);
  heap_.expect_empty();
}

// Nor for long, when no threads come and go any more.
TEST_F(CachesHandedOverTest, WhoGoesOnGivesBackWhatNobodyTakes) {
  const Cache cache(heap_);
  do_little();
  EXPECT_GT(statistics().handed_out, 0U);
  std::vector<void*> objects;
  for (std::size_t bytes = 0; bytes < 4 * kMiB; bytes += 4096) objects.push_back(heap_->allocate(cache, 4096));
  EXPECT_EQ(statistics().handed_out, 0U);
  for (void* const object : objects) heap_->free(cache, object);
}

TEST_F(CachesHandedOverTest, TheyGiveWayBeforeNull) {
  const Cache cache(heap_);
  do_little();
  EXPECT_GT(statistics().handed_out, 0U);
  void* const most = heap_->allocate(cache, 256 * kMiB);  // all of the arena
  EXPECT_NE(most, nullptr);
  EXPECT_EQ(statistics().handed_out, 0U);
  heap_->free(cache, most);
}

TEST_F(CachesHandedOverTest, AChildOfForkMayHaveThem) {
  const Cache cache(heap_);
  do_little();
  heap_->lock_for_fork();
  heap_->reset_after_fork_child(cache);
  const Heap::ClassStatistics before = statistics();
  do_little();
  EXPECT_EQ(statistics().refills, before.refills);
  heap_->verify();
  heap_->trim(cache);
  heap_.expect_empty();
}

using CachesHandedOverDeathTest = CachesHandedOverTest;

TEST_F(CachesHandedOverDeathTest, WhatTheLastThreadFreedIsNotFreedAgain) {
  void* first = nullptr;
  void* last = nullptr;
  {
    const Cache cache(heap_);
    first = heap_->allocate(cache, kSize);
    last = heap_->allocate(cache, kSize);
    heap_->free(cache, first);
    heap_->free(cache, last);
  }
  const Cache cache(heap_);
  EXPECT_DEATH(heap_->free(cache, first), "double free");
  EXPECT_DEATH(heap_->free(cache, last), "double free");
}

TEST(ThreadCache, TheEmptyCacheMisses) {
  ThreadCache* const empty = ThreadCache::empty();
  int object = 0;
  for (unsigned kind = 0; kind < kGranuleKindCount; ++kind) {
    EXPECT_EQ(empty->try_allocate(SizeClass{static_cast<std::uint8_t>(kind)}), nullptr);
    EXPECT_FALSE(empty->try_free(static_cast<GranuleKind>(kind), &object));
  }
}

}  // namespace
}  // namespace polder
