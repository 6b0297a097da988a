#include "pager/patience.h"

#include <gtest/gtest.h>

namespace polder {
namespace {

constexpr std::uint64_t kMs = 1'000'000;

TEST(PatienceTest, EndsAfterItsTimeOfFruitlessRounds) {
  Patience patience;
  std::uint64_t now = 1000 * kMs;
  patience.renew(now);
  for (int i = 0; i < 200; ++i) {
    patience.fruitless_round(now += kMs);
    ASSERT_FALSE(patience.exhausted()) << i;
  }
  patience.fruitless_round(now += kMs);
  EXPECT_TRUE(patience.exhausted());
}

TEST(PatienceTest, AnyResultRenewsIt) {
  Patience patience;
  std::uint64_t now = 0;
  patience.renew(now);
  for (int i = 0; i < 1000; ++i) patience.fruitless_round(now += kMs);
  EXPECT_TRUE(patience.exhausted());
  patience.renew(now += kMs);
  EXPECT_FALSE(patience.exhausted());
  patience.fruitless_round(now += kMs);
  EXPECT_FALSE(patience.exhausted());
}

// A process that was stopped for a minute has tried once in that minute.
TEST(PatienceTest, TimeInWhichNothingWasTriedDoesNotCount) {
  Patience patience;
  std::uint64_t now = 0;
  patience.renew(now);
  for (int i = 0; i < 50; ++i) {
    patience.fruitless_round(now += 60'000 * kMs);
    ASSERT_FALSE(patience.exhausted()) << i;
  }
  patience.fruitless_round(now += 60'000 * kMs);
  EXPECT_TRUE(patience.exhausted());
}

}  // namespace
}  // namespace polder
