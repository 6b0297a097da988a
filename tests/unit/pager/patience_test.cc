#include "pager/patience.h"

#include <gtest/gtest.h>

namespace polder {
namespace {

constexpr std::uint64_t kMs = 1'000'000;

Patience::Time later(Patience::Time& time, std::uint64_t ns, std::uint64_t busy_ns = 0) {
  time.now_ns += ns;
  time.cpu_ns += busy_ns;
  return time;
}

TEST(PatienceTest, EndsAfterItsTimeOfFruitlessRounds) {
  Patience patience;
  Patience::Time now{1000 * kMs, 0};
  patience.renew(now);
  for (int i = 0; i < 200; ++i) {
    patience.fruitless_round(later(now, kMs));
    ASSERT_FALSE(patience.exhausted()) << i;
  }
  patience.fruitless_round(later(now, kMs));
  EXPECT_TRUE(patience.exhausted());
}

TEST(PatienceTest, AnyResultRenewsIt) {
  Patience patience;
  Patience::Time now;
  patience.renew(now);
  for (int i = 0; i < 1000; ++i) patience.fruitless_round(later(now, kMs));
  EXPECT_TRUE(patience.exhausted());
  patience.renew(later(now, kMs));
  EXPECT_FALSE(patience.exhausted());
  patience.fruitless_round(later(now, kMs));
  EXPECT_FALSE(patience.exhausted());
}

// A process that was stopped for a minute has tried once in that minute.
TEST(PatienceTest, TimeInWhichNothingWasTriedDoesNotCount) {
  Patience patience;
  Patience::Time now;
  patience.renew(now);
  for (int i = 0; i < 50; ++i) {
    patience.fruitless_round(later(now, 60'000 * kMs));
    ASSERT_FALSE(patience.exhausted()) << i;
  }
  patience.fruitless_round(later(now, 60'000 * kMs));
  EXPECT_TRUE(patience.exhausted());
}

TEST(PatienceTest, RoundsThatKeepTheProcessorBusyCountInFull) {
  Patience patience;
  Patience::Time now;
  patience.renew(now);
  patience.fruitless_round(later(now, 150 * kMs, 140 * kMs));
  EXPECT_FALSE(patience.exhausted());
  patience.fruitless_round(later(now, 150 * kMs, 140 * kMs));
  EXPECT_TRUE(patience.exhausted());
}

}  // namespace
}  // namespace polder
