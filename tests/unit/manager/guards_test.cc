// A hardened heap on the real pager: guards among pages that are evicted and filled, and what is charged.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "os/mapping.h"
#include "unit/manager/manager_fixture.h"

namespace polder {
namespace {

class GuardsTest : public ManagerFixture {
 protected:
  void begin(std::size_t limit) {
    start(limit, 512 * kMiB, std::size_t{1} << 30, Hardening::on);
    void* const probe = heap().allocate(cache_, 20'000);
    const bool guards = !os::is_readable(static_cast<char*>(probe) + heap().usable_size(probe));
    heap().free(cache_, probe);
    heap().trim(cache_);
    if (!guards) GTEST_SKIP() << "this kernel has no guard pages";
  }

  Heap& heap() { return manager_->heap(); }
  const StatisticsSegment& statistics() { return manager_->statistics(); }
  std::uint64_t reads() { return statistics().pager.fills_swap.load() + statistics().pager.fills_readahead.load(); }

  struct Block {
    std::uint32_t* words;
    std::size_t size;
  };
  Block allocate(std::size_t size, std::uint32_t mark) {
    auto* const words = static_cast<std::uint32_t*>(heap().allocate(cache_, size));
    EXPECT_NE(words, nullptr);
    for (std::uint32_t i = 0; i < size / 4; ++i) words[i] = mark * 0x9E37'79B9 + i * i;
    return {words, size};
  }
  static bool is_right(const Block& block, std::uint32_t mark) {
    for (std::uint32_t i = 0; i < block.size / 4; ++i) {
      if (block.words[i] != mark * 0x9E37'79B9 + i * i) return false;
    }
    return true;
  }
  bool is_guarded(const Block& block) {
    return !os::is_readable(reinterpret_cast<char*>(block.words) + heap().usable_size(block.words));
  }
};

// As a fill leaves it that was given up while its neighbour's owner freed it.
TEST_P(GuardsTest, APageThatIsNothingAndWasDiscardedBecomesAGuard) {
  ASSERT_NO_FATAL_FAILURE(begin(16 * kMiB));
  if (IsSkipped()) return;
  char* const span = static_cast<char*>(heap().allocate(cache_, 300'000));
  ASSERT_NE(span, nullptr);
  span[0] = 1;
  std::vector<Block> blocks;
  for (std::uint32_t i = 0; i < 40; ++i) blocks.push_back(allocate(kMiB, i));
  const PageId page = manager_->arena().page_of(span + 100'000);
  auto& table = const_cast<PageTable&>(manager_->pager().table());
  ASSERT_EQ(table.load(page), PageWord{});
  ASSERT_EQ(manager_->pager().blocks().mode(block_of(page)), BlockMode::managed);
  table.set_unshared(page, PageWord{}.with_discarded());
  heap().free(cache_, span);
  EXPECT_FALSE(os::is_readable(span + 100'000));
  for (std::uint32_t i = 0; i < 40; ++i) EXPECT_TRUE(is_right(blocks[i], i)) << i;
}

TEST_P(GuardsTest, WhatWaitsIsNotCharged) {
  ASSERT_NO_FATAL_FAILURE(begin(256 * kMiB));
  if (IsSkipped()) return;
  const PageCount before = manager_->budget().charged();
  for (std::uint32_t round = 0; round < 20; ++round) {
    const Block large = allocate(3'000'000, round);
    const Block span = allocate(300'000, round);
    EXPECT_TRUE(is_guarded(large) && is_guarded(span));
    heap().free(cache_, large.words);
    heap().free(cache_, span.words);
    EXPECT_FALSE(os::is_readable(large.words));
    EXPECT_FALSE(os::is_readable(span.words));
  }
  EXPECT_LE(manager_->budget().charged(), before + PageCount{256});  // metadata
  heap().trim(cache_);
  heap().verify();
}

TEST_P(GuardsTest, GuardsStayWhereTheirNeighboursComeAndGo) {
  ASSERT_NO_FATAL_FAILURE(begin(32 * kMiB));
  if (IsSkipped()) return;
  std::vector<Block> blocks;
  for (std::uint32_t i = 0; i < 2400; ++i) blocks.push_back(allocate(i % 100 == 0 ? 700'000 : 20'000 + i * 20, i));
  EXPECT_GT(statistics().reclaim.evictions.load(), 1000U);
  for (std::uint32_t round = 0; round < 2; ++round) {
    for (std::uint32_t i = 0; i < blocks.size(); ++i) {
      ASSERT_TRUE(is_right(blocks[i], i)) << i;
      ASSERT_TRUE(is_guarded(blocks[i])) << i;
    }
    // Every other one goes, and comes back elsewhere.
    for (std::uint32_t i = round; i < blocks.size(); i += 2) {
      heap().free(cache_, blocks[i].words);
      ASSERT_FALSE(os::is_readable(blocks[i].words)) << i;
      blocks[i] = allocate(blocks[i].size, i);
    }
    heap().verify();
    EXPECT_LE(manager_->budget().charged(), manager_->budget().limit());
  }
  EXPECT_GT(reads(), 1000U);
  for (const Block& block : blocks) heap().free(cache_, block.words);
  heap().trim(cache_);
  manager_->verify();
}

TEST_P(GuardsTest, FreeingDoesNotReadWhatWasEvicted) {
  ASSERT_NO_FATAL_FAILURE(begin(32 * kMiB));
  if (IsSkipped()) return;
  std::vector<Block> blocks;
  for (std::uint32_t i = 0; i < 5000; ++i) blocks.push_back(allocate(i % 2 == 0 ? 16'384 : 8'192, i));
  const std::uint64_t before = reads();
  for (const Block& block : blocks) heap().free(cache_, block.words);
  heap().trim(cache_);
  EXPECT_EQ(reads(), before);
  manager_->verify();
}

INSTANTIATE_TEST_SUITE_P(Backends, GuardsTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder
