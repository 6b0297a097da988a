// The whole below the malloc ABI, in one process and on small instances: objects of a Manager's heap are written,
// evicted, read back and freed while every byte is checked.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "os/pagemap.h"
#include "unit/manager/manager_objects_fixture.h"

namespace polder {
namespace {

class ManagerTest : public ManagerObjectsFixture {};

TEST_P(ManagerTest, FourTimesTheLimitComesBackUnchanged) {
  start(16 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 64 * 1024; ++i) {
    objects.push_back(make(1000, i));
    if (i % 8192 == 0) {
      EXPECT_LE(resident(), 16 * kMiB);
    }
  }
  EXPECT_TRUE(manager_->pager().armed());
  EXPECT_TRUE(manager_->pager().backing().under_pressure());
  std::mt19937 random(1);
  for (int i = 0; i < 10000; ++i) ASSERT_TRUE(holds(objects[random() % objects.size()]));
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
  EXPECT_LE(resident(), 16 * kMiB);
  EXPECT_GT(manager_->statistics().pager.fills_swap.load(), 0U);
  manager_->verify();
}

TEST_P(ManagerTest, LargeBlocksBeyondTheLimitAreFilledAsTheyAreTouched) {
  start(16 * kMiB);
  auto* const block = static_cast<unsigned char*>(manager_->heap().allocate_zeroed(cache_, 200 * kMiB));
  ASSERT_NE(block, nullptr);
  for (std::size_t at = 0; at < 200 * kMiB; at += 3 * kPageSize) {
    ASSERT_EQ(block[at], 0);
    block[at] = static_cast<unsigned char>(at >> 12);
  }
  for (std::size_t at = 0; at < 200 * kMiB; at += 3 * kPageSize) {
    ASSERT_EQ(block[at], static_cast<unsigned char>(at >> 12));
    ASSERT_EQ(block[at + 1], 0);
  }
  EXPECT_LE(resident(), 16 * kMiB);
  manager_->heap().free(cache_, block);
}

TEST_P(ManagerTest, SameFilledPagesCostNoSwap) {
  start(16 * kMiB);
  std::vector<std::uint64_t*> blocks;
  for (std::uint64_t i = 0; i < 64; ++i) {
    blocks.push_back(static_cast<std::uint64_t*>(manager_->heap().allocate(cache_, kMiB)));
    std::fill_n(blocks.back(), kMiB / 8, i % 5 * 0x0101010101010101);
  }
  for (std::uint64_t i = 0; i < 64; ++i) {
    for (std::size_t j = 0; j < kMiB / 8; ++j) ASSERT_EQ(blocks[i][j], i % 5 * 0x0101010101010101);
  }
  EXPECT_GT(manager_->statistics().pager.fills_same_filled.load(), 1000U);
  EXPECT_EQ(manager_->statistics().pager.fills_swap.load(), 0U);
}

TEST_P(ManagerTest, CleanPagesAreDroppedWithoutAWrite) {
  start(16 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 32; ++i) objects.push_back(make(kMiB, i));
  for (int round = 0; round < 3; ++round) {
    for (const Object& object : objects) ASSERT_TRUE(holds(object));
  }
  const StatisticsSegment& statistics = manager_->statistics();
  EXPECT_GT(statistics.reclaim.clean_drops.load(), 2000U);
  EXPECT_LT(statistics.reclaim.bytes_written.load(), 64 * kMiB);
}

// The heap knows how far an object reaches: whoever wants its first page wants the others.
TEST_P(ManagerTest, AnObjectIsReadAsAWhole) {
  start(16 * kMiB);
  std::vector<Object> objects;
  // From one KiB on, none begins with a page.
  const Object first = make(9 << 10, 1);
  for (std::uint64_t i = 0; i < 3072; ++i) objects.push_back(make(16 << 10, i));
  std::shuffle(objects.begin(), objects.end(), std::mt19937(5));
  const StatisticsSegment& statistics = manager_->statistics();
  const std::uint64_t faults = statistics.pager.faults.load();
  const std::uint64_t asked = statistics.pager.fills_swap.load();
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
  // Five pages each; few are in slots that do not follow each other.
  EXPECT_LT(statistics.pager.faults.load() - faults, 2 * objects.size());
  EXPECT_LT(statistics.pager.fills_swap.load() - asked, 2 * objects.size());
  EXPECT_TRUE(holds(first));
}

TEST_P(ManagerTest, FreeingStoredMemoryReadsNothing) {
  start(16 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 64; ++i) objects.push_back(make(kMiB, i));
  const std::uint64_t read_before = manager_->statistics().pager.bytes_read.load();
  for (const Object& object : objects) manager_->heap().free(cache_, object.bytes);
  EXPECT_EQ(manager_->statistics().pager.bytes_read.load(), read_before);
  manager_->heap().trim(cache_);
  EXPECT_EQ(manager_->statistics().reclaim.stored_pages.load(), 0U);
}

// What is in swap moves with the run, without being read; of what is in memory, little is charged twice.
TEST_P(ManagerTest, ReallocatingStoredMemoryReadsAndWritesNothing) {
  start(16 * kMiB);
  const Object before = make(32 * kMiB, 1);
  const Object wall = make(kMiB, 2);
  const StatisticsSegment& statistics = manager_->statistics();
  const std::uint64_t read = statistics.pager.bytes_read.load();
  const std::uint64_t written = statistics.reclaim.bytes_written.load();
  const std::uint64_t stored = statistics.reclaim.stored_pages.load();
  void* const moved = manager_->heap().reallocate(cache_, before.bytes, 48 * kMiB);
  ASSERT_NE(moved, nullptr);
  ASSERT_NE(moved, before.bytes);
  EXPECT_LT(statistics.pager.bytes_read.load() - read, kMiB);
  EXPECT_LT(statistics.reclaim.bytes_written.load() - written, 4 * kMiB);
  EXPECT_GE(statistics.reclaim.stored_pages.load(), stored - kMiB / kPageSize);
  manager_->verify();
  manager_->heap().verify();
  const Object after{static_cast<unsigned char*>(moved), before.size, before.seed};
  EXPECT_TRUE(holds(after));
  for (std::size_t at = before.size; at < 48 * kMiB; at += kPageSize) ASSERT_EQ(after.bytes[at], 0);
  EXPECT_TRUE(holds(wall));
  manager_->heap().free(cache_, after.bytes);
  manager_->heap().free(cache_, wall.bytes);
  manager_->heap().trim(cache_);
  wait_until_nothing_is_stored();
}

// Here and there a page is in memory, or was never touched; part of the run's blocks are not managed yet.
TEST_P(ManagerTest, ReallocatedRunsMayBeAnywhereInPart) {
  start(16 * kMiB);
  std::mt19937_64 random(3);
  for (std::uint64_t round = 0; round < 12; ++round) {
    SCOPED_TRACE(round);
    const std::size_t size = (2 + random() % 22) * kMiB + random() % 64 * kPageSize;
    // Grown where it is, a run begins in a block that is not managed and goes on in others that are.
    const bool grown = round % 4 == 1;
    const std::size_t first = grown ? kMiB : size;
    auto* bytes = static_cast<unsigned char*>(manager_->heap().allocate_zeroed(cache_, first));
    ASSERT_NE(bytes, nullptr);
    if (grown) {
      std::memset(bytes, 1, first);
      bytes = static_cast<unsigned char*>(manager_->heap().reallocate(cache_, bytes, size));
      ASSERT_NE(bytes, nullptr);
    }
    const std::size_t written = round % 3 == 0 && !grown ? size / 2 : size;
    const auto byte_of = [&](std::size_t page) { return static_cast<unsigned char>(page * 7 + round + 1); };
    const auto is_written = [&](std::size_t page) { return grown || (page < written / kPageSize && page % 13 != 5); };
    for (std::size_t page = 0; page < size / kPageSize; ++page) {
      if (!is_written(page)) continue;
      std::memset(bytes + page * kPageSize, byte_of(page), kPageSize / 2);
      bytes[page * kPageSize + kPageSize / 2] = static_cast<unsigned char>(random() | 1);
    }
    const Object wall = make(kMiB, round);
    for (std::size_t page = 0; round % 2 == 0 && page < size / kPageSize; page += kPagesPerFolio * 3) {
      static_cast<void>(static_cast<volatile unsigned char*>(bytes)[page * kPageSize]);
    }
    bytes = static_cast<unsigned char*>(manager_->heap().reallocate(cache_, bytes, size + size / 2));
    ASSERT_NE(bytes, nullptr);
    for (std::size_t page = 0; page < size / kPageSize; ++page) {
      const unsigned char expected = is_written(page) ? byte_of(page) : 0;
      ASSERT_EQ(bytes[page * kPageSize], expected) << page;
      ASSERT_EQ(bytes[page * kPageSize + kPageSize / 2 - 1], expected) << page;
    }
    std::memset(bytes, 1, size + size / 2);
    EXPECT_TRUE(holds(wall));
    manager_->verify();
    manager_->heap().verify();
    manager_->heap().free(cache_, bytes);
    manager_->heap().free(cache_, wall.bytes);
  }
  manager_->heap().trim(cache_);
  wait_until_nothing_is_stored();
}

// Around the limit blocks are converted while their pages are still in memory; what is freed then is soon handed out
// again.
TEST_P(ManagerTest, ZeroedMemoryIsZeroWhoeverHadItBefore) {
  start(16 * kMiB);
  constexpr std::size_t kSize = 300 * 1024;
  std::deque<Object> objects;
  std::mt19937 random(3);
  for (std::uint64_t i = 0; i < 600; ++i) {
    objects.push_back(make(kSize, i));
    while (objects.size() > 44 + i % 12) {
      const std::size_t index = random() % objects.size();
      ASSERT_TRUE(holds(objects[index]));
      manager_->heap().free(cache_, objects[index].bytes);
      objects.erase(objects.begin() + static_cast<std::ptrdiff_t>(index));
    }
    auto* const block = static_cast<unsigned char*>(manager_->heap().allocate_zeroed(cache_, kSize));
    for (std::size_t j = 0; j < kSize; ++j) ASSERT_EQ(block[j], 0) << "at " << j << " in step " << i;
    manager_->heap().free(cache_, block);
  }
  EXPECT_GT(manager_->pager().blocks().managed_blocks().value, 0U);
}

// A block converted while its pages are in memory: they have been written, and their next owner must not be told that
// they read as zero.
TEST_P(ManagerTest, AConvertedPageIsNotFresh) {
  start(16 * kMiB);
  Backing& backing = manager_->pager().backing();
  const polder::Run first{.first = PageId{0}, .pages = PageCount{kPagesPerBlock / 2}};
  ASSERT_TRUE(backing.provide(first, Occupancy::sparse));
  EXPECT_TRUE(backing.reads_as_zero(first));
  std::memset(manager_->arena().address(first.first), 0xA5, bytes(first.pages));
  // Too large to be native, and it begins in the same block.
  const polder::Run second{.first = first.end(), .pages = pages_down(32 * kMiB)};
  ASSERT_TRUE(backing.provide(second, Occupancy::sparse));
  ASSERT_EQ(manager_->pager().blocks().mode(BlockId{0}), BlockMode::managed);
  backing.discard(first);
  ASSERT_TRUE(backing.provide(first, Occupancy::sparse));
  EXPECT_FALSE(backing.reads_as_zero(first));
}

// Whole blocks go together, up to the next that has words of its own, and nothing beside the run goes with them.
TEST_P(ManagerTest, PurgingDropsTheRunAndNothingBeside) {
  start(0);
  Backing& backing = manager_->pager().backing();
  const auto pages_of_blocks = [](double blocks) {
    return PageCount{static_cast<std::uint64_t>(blocks * kPagesPerBlock)};
  };
  const auto run = [&](double from, double to) {
    return polder::Run{.first = PageId{0} + pages_of_blocks(from), .pages = pages_of_blocks(to - from)};
  };
  const auto bytes_of = [&](polder::Run of) {
    return std::pair{reinterpret_cast<unsigned char*>(manager_->arena().address(of.first)), bytes(of.pages)};
  };
  // Block 9 was provided in halves: its words are its own.
  for (const polder::Run part : {run(0, 0.5), run(0.5, 9), run(9, 9.5), run(9.5, 14.25), run(14.25, 15)}) {
    ASSERT_TRUE(backing.provide(part, Occupancy::sparse));
    std::memset(bytes_of(part).first, 0xA5, bytes_of(part).second);
  }
  const polder::Run purged = run(0.5, 14.25);
  const std::uint64_t charged = manager_->budget().charged().value;
  backing.discard(purged);
  backing.purge(purged);
  EXPECT_EQ(charged - manager_->budget().charged().value, purged.pages.value);
  for (const polder::Run kept : {run(0, 0.5), run(14.25, 15)}) {
    const auto [begin, size] = bytes_of(kept);
    EXPECT_EQ(std::count(begin, begin + size, 0xA5), static_cast<std::ptrdiff_t>(size));
  }
  ASSERT_TRUE(backing.provide(purged, Occupancy::sparse));
  EXPECT_TRUE(backing.reads_as_zero(purged));
  const auto [begin, size] = bytes_of(purged);
  EXPECT_EQ(std::count(begin, begin + size, 0), static_cast<std::ptrdiff_t>(size));
  EXPECT_EQ(charged, manager_->budget().charged().value);
  manager_->pager().verify();
}

// In a heap that is large, pages become resident that nobody touched: they are charged. When a limit is set, they go like
// all others.
TEST_P(ManagerTest, HugePagesAreChargedAndEvicted) {
  start(0);
  void* const untouched = manager_->heap().allocate(cache_, 128 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 16 * kMiB / 1024; ++i) objects.push_back(make(1024, i));
  {
    Pageblocks& blocks = manager_->pager().blocks();
    const os::MutexLock lock(blocks.mutex());
    if (os::huge_page_mode() == os::HugePageMode::advised && !os::page_tables_are_shadowed()) {
      EXPECT_TRUE(blocks.is_huge_locked(block_of(manager_->arena().page_of(objects.back().bytes))));
    }
    EXPECT_FALSE(blocks.is_huge_locked(BlockId{0}));
  }
  EXPECT_LE(resident(), bytes(manager_->budget().charged()));
  manager_->pager().verify();
  manager_->heap().free(cache_, untouched);
  ASSERT_TRUE(manager_->set_memory_limit(12 * kMiB).ok());
  EXPECT_LE(resident(), 12 * kMiB);
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
  for (std::size_t i = 0; i < objects.size(); i += 8) manager_->heap().free(cache_, objects[i].bytes);
  for (std::size_t i = 0; i < objects.size(); i += 8) objects[i] = make(1024, i + 1);
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
}

// What is free of a huge block is zero, and no page of it is moved. It goes when the first part of the block is purged; what
// is in use stays.
TEST_P(ManagerTest, AHugeBlockGivesBackWhatNobodyUses) {
  start(0);
  Backing& backing = manager_->pager().backing();
  Pageblocks& blocks = manager_->pager().blocks();
  const auto is_huge = [&blocks] {
    const os::MutexLock lock(blocks.mutex());
    return blocks.is_huge_locked(BlockId{0});
  };
  const auto granules = [](std::uint32_t first, std::uint32_t number) {
    return polder::Run{.first = PageId{first * kPagesPerGranule}, .pages = PageCount{number * kPagesPerGranule}};
  };
  const auto drop = [&backing](polder::Run run) {
    backing.discard(run);
    backing.purge(run);
  };
  const auto counted = [this](polder::Run run, char value) {
    const char* const begin = manager_->arena().address(run.first);
    return static_cast<std::size_t>(std::count(begin, begin + bytes(run.pages), value));
  };
  const polder::Run first = granules(0, 2);
  const polder::Run second = granules(30, 3);
  const PageCount before = manager_->budget().charged();
  ASSERT_TRUE(backing.provide(first, Occupancy::dense));
  if (!is_huge()) GTEST_SKIP() << "this machine makes no huge pages where they are advised";
  std::memset(manager_->arena().address(first.first), 0x5A, bytes(first.pages));
  const PageCount charged = manager_->budget().charged();
  EXPECT_GE(charged - before, PageCount{kPagesPerBlock});
  ASSERT_TRUE(backing.provide(second, Occupancy::sparse));
  EXPECT_EQ(manager_->budget().charged(), charged);
  EXPECT_TRUE(backing.reads_as_zero(second));
  EXPECT_EQ(counted(second, 0), bytes(second.pages));
  EXPECT_EQ(backing.relocate(first, second.first).value, 0U);
  std::memset(manager_->arena().address(second.first), 0x6B, bytes(second.pages));
  EXPECT_TRUE(is_huge());

  drop(first);
  EXPECT_FALSE(is_huge());
  EXPECT_EQ(charged - manager_->budget().charged(), PageCount{kPagesPerBlock} - second.pages);
  EXPECT_EQ(counted(second, 0x6B), bytes(second.pages));
  manager_->pager().verify();
  // Not empty: nobody can make it huge now.
  ASSERT_TRUE(backing.provide(first, Occupancy::dense));
  EXPECT_FALSE(is_huge());
  EXPECT_EQ(counted(first, 0), bytes(first.pages));
  drop(first);
  drop(second);
  EXPECT_EQ(charged - manager_->budget().charged(), PageCount{kPagesPerBlock});

  ASSERT_TRUE(backing.provide(granules(63, 1), Occupancy::dense));
  EXPECT_TRUE(is_huge());
  drop(granules(63, 1));
  EXPECT_EQ(charged - manager_->budget().charged(), PageCount{kPagesPerBlock});
  ASSERT_TRUE(backing.provide(first, Occupancy::sparse));
  EXPECT_FALSE(is_huge());
  EXPECT_EQ(charged - manager_->budget().charged(), PageCount{kPagesPerBlock} - first.pages);
  manager_->pager().verify();
}

// The program may free what it has locked; nothing tells us to unlock it.
TEST_P(ManagerTest, LockedMemoryCanBeFreedAndPurged) {
  start(0);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 4; ++i) {
    objects.push_back(make(kMiB, i));
    ASSERT_EQ(mlock(objects.back().bytes, kMiB), 0);
  }
  for (const Object& object : objects) manager_->heap().free(cache_, object.bytes);
  EXPECT_GT(manager_->heap().trim(cache_).value, 0U);
  auto* const block = static_cast<unsigned char*>(manager_->heap().allocate_zeroed(cache_, 4 * kMiB));
  for (std::size_t i = 0; i < 4 * kMiB; i += 64) ASSERT_EQ(block[i], 0);
}

// Where mappings begin and end no move goes across: what is beside a locked page leaves all the same.
TEST_P(ManagerTest, ALockedPageKeepsItsNeighboursForNobody) {
  start(32 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 16; ++i) {
    objects.push_back(make(kMiB, i));
    // Sanitizers intercept mlock and do nothing.
    ASSERT_EQ(syscall(SYS_mlock, objects.back().bytes + kMiB / 2, kPageSize), 0);
  }
  std::vector<Object> others;
  for (std::uint64_t i = 0; i < 64; ++i) others.push_back(make(kMiB, 100 + i));
  for (const Object& other : others) ASSERT_TRUE(holds(other));
  std::size_t there = 0;
  os::Pagemap pagemap;
  ASSERT_TRUE(pagemap.open().ok());
  for (const Object& object : objects) {
    std::uint64_t present[kMiB / kPageSize / 64] = {};
    ASSERT_TRUE(pagemap.scan_present(object.bytes, kMiB, present).ok());
    for (const std::uint64_t word : present) there += static_cast<unsigned>(std::popcount(word));
  }
  EXPECT_GE(there, objects.size());
  EXPECT_LE(there, 2 * objects.size());
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
}

TEST_P(ManagerTest, DiscardedMemoryReadsAsZeroWhereverItIs) {
  start(16 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 40; ++i) objects.push_back(make(kMiB, i));
  for (const Object& object : objects) {
    manager_->program_discard(object.bytes + kPageSize, kMiB / 2);
    for (std::size_t i = 0; i < kMiB / 2; i += 512) ASSERT_EQ(object.bytes[kPageSize + i], 0);
    ASSERT_EQ(object.bytes[0], static_cast<unsigned char>(word_at(object, 0)));
    ASSERT_EQ(object.bytes[kMiB - 1], static_cast<unsigned char>(word_at(object, kMiB / 8 - 1) >> 56));
  }
}

TEST_P(ManagerTest, RandomReplacementByThreadsKeepsEveryByte) {
  start(16 * kMiB);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  std::atomic<int> refused{0};
  for (unsigned t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      Heap& heap = manager_->heap();
      ThreadCache* const cache = heap.create_cache();
      std::mt19937 random(t);
      std::vector<Object> objects(3000);
      for (std::uint64_t step = 0; step < 12000; ++step) {
        Object& object = objects[random() % objects.size()];
        if (object.bytes != nullptr) {
          if (!holds(object)) ++wrong;
          heap.free(cache, object.bytes);
        }
        object.size = random() % 100 == 0 ? 1 + random() % (300 * 1024) : 1 + random() % 9000;
        object.seed = step << 8 | t;
        object.bytes = static_cast<unsigned char*>(heap.allocate(cache, object.size));
        if (object.bytes == nullptr) {
          ++refused;
          continue;
        }
        write(object);
      }
      for (const Object& object : objects) {
        if (object.bytes == nullptr) continue;
        if (!holds(object)) ++wrong;
        heap.free(cache, object.bytes);
      }
      heap.destroy_cache(cache);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(refused, 0);
  EXPECT_LE(resident(), 16 * kMiB);
  manager_->verify();
}

TEST_P(ManagerTest, AFullSwapFileFailsAllocationsAndLosesNothing) {
  start(16 * kMiB, 16 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    auto* const bytes = static_cast<unsigned char*>(manager_->heap().allocate(cache_, 60000));
    if (bytes == nullptr) break;
    objects.push_back(Object{bytes, 60000, i});
    write(objects.back());
  }
  ASSERT_GT(objects.size(), 300U);
  ASSERT_LT(objects.size(), 1000U);
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
  for (std::size_t i = 0; i < objects.size() / 2; ++i) manager_->heap().free(cache_, objects[i].bytes);
  EXPECT_NE(manager_->heap().allocate(cache_, 60000), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Backends, ManagerTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder
