#include "vm/page_table.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "metadata_fixture.h"

namespace polder {
namespace {

using enum PageState;

TEST(PageWord, FieldsDoNotOverlap) {
  const PageWord word = PageWord::of(staged)
                            .with_staging_page(PageWord::kStagingPages - 1)
                            .with_retained(0xFEDCBA98)
                            .with_discarded()
                            .with_source(lost)
                            .with_poisoning();
  EXPECT_EQ(word.state(), staged);
  EXPECT_EQ(word.staging_page(), PageWord::kStagingPages - 1);
  EXPECT_TRUE(word.retained());
  EXPECT_EQ(word.location(), 0xFEDCBA98U);
  EXPECT_TRUE(word.discarded());
  EXPECT_EQ(word.source(), lost);
  EXPECT_TRUE(word.poisoning());

  const PageWord bare = word.without_discarded().without_poisoning().without_retained().with_staging_page(0);
  EXPECT_EQ(bare, PageWord::of(staged).with_source(lost));
  EXPECT_EQ(PageWord{}.state(), untouched);
  EXPECT_EQ(PageWord{}.bits(), 0U);
}

// The table of the header's drawing, written a second time.
const std::set<std::pair<PageState, PageState>> kLegal = {
    {untouched, filling}, {resident, evicting},  {resident, untouched}, {resident, lost},    {evicting, staged},
    {evicting, resident}, {evicting, untouched}, {staged, filling},     {staged, stored},    {staged, untouched},
    {stored, filling},    {stored, untouched},   {untouched, stored},   {filling, resident}, {filling, untouched},
    {filling, staged},    {filling, stored},     {filling, lost},       {lost, untouched},   {lost, resident},
    {untouched, guard},   {guard, untouched},
};

TEST(PageTable, AllowsExactlyTheDrawnTransitions) {
  for (unsigned from = 0; from < kPageStateCount; ++from) {
    for (unsigned to = 0; to < kPageStateCount; ++to) {
      const auto pair = std::pair(static_cast<PageState>(from), static_cast<PageState>(to));
      EXPECT_EQ(is_legal(pair.first, pair.second), from == to || kLegal.contains(pair))
          << name(pair.first) << " to " << name(pair.second);
    }
  }
}

class PageTableTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kPages = 64;

  PageTableTest() {
    const std::size_t size = MetadataArray<std::atomic<std::uint64_t>>::bytes_for(kPages);
    memory_ = os::reserve(size, kPageSize).value;
    MetadataSpace space(memory_, size);
    table_ = PageTable(MetadataArray<std::atomic<std::uint64_t>>(space, kPages));
    EXPECT_TRUE(table_.ensure(PageId{kPages}).ok());
  }
  ~PageTableTest() override { os::release(memory_, MetadataArray<std::atomic<std::uint64_t>>::bytes_for(kPages)); }

  char* memory_;
  PageTable table_;
};

TEST_F(PageTableTest, TransitionNeedsTheCurrentValue) {
  PageWord stale = PageWord::of(resident);
  EXPECT_FALSE(table_.transition(PageId{3}, stale, PageWord::of(evicting)));
  EXPECT_EQ(stale, PageWord{});
  EXPECT_TRUE(table_.transition(PageId{3}, stale, PageWord::of(filling)));
  EXPECT_EQ(table_.load(PageId{3}).state(), filling);
  EXPECT_EQ(table_.load(PageId{2}).state(), untouched);
}

using PageTableDeathTest = PageTableTest;

TEST_F(PageTableDeathTest, IllegalTransitionEndsTheProgram) {
  PageWord word;
  EXPECT_DEATH(table_.transition(PageId{0}, word, PageWord::of(staged)), "");
}

// Random legal steps on all pages, by one thread, against plain variables.
TEST_F(PageTableTest, RandomWalkMatchesAModel) {
  std::mt19937_64 random(20260101);
  std::array<PageWord, kPages> model{};
  for (int step = 0; step < 200000; ++step) {
    const PageId page{static_cast<std::uint32_t>(random() % kPages)};
    const auto next = static_cast<PageState>(random() % kPageStateCount);
    PageWord expected = random() % 4 != 0 ? model[page.value] : PageWord(random() & 0xFFFFFFF8FFFFFFF8);
    PageWord desired = PageWord::of(next).with_staging_page(random() % PageWord::kStagingPages);
    if (random() % 2 != 0) desired = desired.with_retained(static_cast<std::uint32_t>(random()));
    if (!is_legal(expected.state(), desired.state())) continue;
    const bool current = expected == model[page.value];
    ASSERT_EQ(table_.transition(page, expected, desired), current);
    if (current) model[page.value] = desired;
    ASSERT_EQ(table_.load(page), model[page.value]);
  }
}

// Several threads drive pages around the cycle; every step is taken by exactly one of them.
TEST_F(PageTableTest, EveryStepHasOneWinner) {
  constexpr int kThreads = 4;
  constexpr std::array kCycle = {resident, evicting, staged, filling};
  PageWord start;
  ASSERT_TRUE(table_.transition(PageId{0}, start, PageWord::of(filling)));
  std::array<std::uint64_t, kThreads> won{};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20000; ++i) {
        PageWord word = table_.load(PageId{0});
        std::size_t at = 0;
        while (kCycle[at] != word.state()) ++at;
        // Location counts the steps.
        const PageWord next = PageWord::of(kCycle[(at + 1) % kCycle.size()]).with_location(word.location() + 1);
        won[static_cast<std::size_t>(t)] += table_.transition(PageId{0}, word, next);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::uint64_t total = 0;
  for (const std::uint64_t wins : won) total += wins;
  EXPECT_EQ(table_.load(PageId{0}).location(), static_cast<std::uint32_t>(total));
}

}  // namespace
}  // namespace polder
