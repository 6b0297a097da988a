#include "vm/budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

namespace polder {
namespace {

TEST(Budget, ChargesUpToTheLimitAndNotBeyond) {
  Budget budget(PageCount{100});
  EXPECT_TRUE(budget.try_charge(PageCount{60}));
  EXPECT_FALSE(budget.try_charge(PageCount{41}));
  EXPECT_TRUE(budget.try_charge(PageCount{40}));
  EXPECT_FALSE(budget.try_charge(PageCount{1}));
  EXPECT_EQ(budget.free(), PageCount{0});
  budget.uncharge(PageCount{10});
  EXPECT_FALSE(budget.try_charge(PageCount{5}, PageCount{6}));
  EXPECT_TRUE(budget.try_charge(PageCount{5}, PageCount{5}));
  EXPECT_EQ(budget.charged(), PageCount{95});
  EXPECT_EQ(budget.peak(), PageCount{100});
}

TEST(Budget, LoweringTheLimitShowsTheExcess) {
  Budget budget(PageCount{100});
  ASSERT_TRUE(budget.try_charge(PageCount{80}));
  budget.set_limit(PageCount{50});
  EXPECT_EQ(budget.excess(), PageCount{30});
  EXPECT_EQ(budget.free(), PageCount{0});
  EXPECT_FALSE(budget.try_charge(PageCount{1}));
  budget.set_limit(Budget::kUnlimited);
  EXPECT_FALSE(budget.limited());
  EXPECT_TRUE(budget.try_charge(PageCount{2}));
}

TEST(Budget, MetadataIsChargedWhateverTheLimitAndSurvivesFork) {
  Budget budget(PageCount{10});
  ASSERT_TRUE(budget.try_charge(PageCount{10}));
  budget.charge_metadata(PageCount{3});
  EXPECT_EQ(budget.charged(), PageCount{13});
  EXPECT_EQ(budget.metadata(), PageCount{3});
  budget.reset_in_child();
  EXPECT_EQ(budget.charged(), PageCount{3});
  budget.uncharge_metadata(PageCount{3});
  EXPECT_EQ(budget.charged(), PageCount{0});
}

TEST(Budget, WatermarksAreOrderedForEveryLimitAndScale) {
  for (std::uint64_t limit = 512; limit < (std::uint64_t{1} << 40); limit += limit / 3) {
    for (const std::uint32_t scale : {1U, 10U, kDefaultWatermarkScale, 1000U}) {
      const Watermarks marks = watermarks_for(PageCount{limit}, scale);
      EXPECT_LT(PageCount{0}, marks.min);
      EXPECT_LT(marks.min, marks.low);
      EXPECT_LT(marks.low, marks.high);
      EXPECT_LE(marks.high.value, limit / 4);
    }
  }
}

TEST(Budget, TheScaleMovesTheWatermarks) {
  constexpr PageCount kLimit{100'000};
  EXPECT_EQ(watermarks_for(kLimit).low, PageCount{780});
  EXPECT_EQ(watermarks_for(kLimit, 500).low, PageCount{5000});
  EXPECT_EQ(watermarks_for(kLimit, 500).high, PageCount{10'000});
  EXPECT_EQ(Budget(kLimit, 10).watermarks().low, PageCount{100});
  EXPECT_EQ(Budget(kLimit, 10).watermarks_at({200'000}).low, PageCount{200});
}

TEST(Budget, HasWatermarksWithoutALimitToo) {
  const Watermarks marks = watermarks_for(Budget::kUnlimited, 1000);
  EXPECT_LT(marks.min, marks.low);
  EXPECT_LT(marks.high, Budget::kUnlimited);
}

TEST(BudgetDeathTest, UnchargingMoreThanChargedEndsTheProgram) {
  Budget budget(PageCount{10});
  EXPECT_DEATH(budget.uncharge(PageCount{1}), "");
}

TEST(Budget, ThreadsNeverExceedTheLimitTogether) {
  constexpr std::uint64_t kLimit = 64;
  Budget budget(PageCount{kLimit});
  std::atomic<std::uint64_t> held{0};
  std::atomic<bool> exceeded{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 20000; ++i) {
        const PageCount pages{1 + random() % 24};
        if (!budget.try_charge(pages)) continue;
        if (held.fetch_add(pages.value) + pages.value > kLimit) exceeded = true;
        held.fetch_sub(pages.value);
        budget.uncharge(pages);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(exceeded);
  EXPECT_EQ(budget.charged(), PageCount{0});
  EXPECT_LE(budget.peak().value, kLimit);
}

}  // namespace
}  // namespace polder
