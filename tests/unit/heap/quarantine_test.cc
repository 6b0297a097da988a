#include "heap/quarantine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <set>

#include "unit/vm/metadata_fixture.h"
#include "vm/budget.h"

namespace polder {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPlenty = std::size_t{1} << 40;

class QuarantineTest : public testing::Test {
 protected:
  QuarantineTest() { quarantine_.seed({1, 2}); }

  static Quarantine::Entry object(std::uint32_t number, std::uint32_t size) {
    return {reinterpret_cast<void*>(std::uintptr_t{number} * 16), size, Quarantine::Entry::kObject};
  }
  static std::uint32_t number_of(const Quarantine::Entry& entry) {
    return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(entry.object) / 16);
  }

  Budget budget_{Budget::kUnlimited};
  Reservation memory_{4 * kMiB};
  MetadataPool pool_{memory_.base(), memory_.size(), budget_};
  Quarantine quarantine_{pool_};
};

TEST_F(QuarantineTest, BoundIsASixteenthWithinLimits) {
  EXPECT_EQ(Quarantine::bound(0), kMiB);
  EXPECT_EQ(Quarantine::bound(16 * kMiB), kMiB);
  EXPECT_EQ(Quarantine::bound(160 * kMiB), 10 * kMiB);
  EXPECT_EQ(Quarantine::bound(std::size_t{1} << 40), 64 * kMiB);
}

TEST_F(QuarantineTest, OneOfTheOldestQuarterLeaves) {
  std::deque<std::uint32_t> waiting;
  for (std::uint32_t number = 1; number <= 5000; ++number) {
    EXPECT_FALSE(quarantine_.add(object(number, 64), 0).has_value());
    waiting.push_back(number);
  }
  unsigned out_of_order = 0;
  while (!waiting.empty()) {
    const std::size_t oldest = std::max<std::size_t>(waiting.size() / 4, 1);
    const auto entry = quarantine_.take();
    ASSERT_TRUE(entry.has_value());
    const auto place = std::find(waiting.begin(), waiting.end(), number_of(*entry));
    ASSERT_NE(place, waiting.end());
    // What was passed over takes the place of who left, within the quarter.
    const auto age = static_cast<std::size_t>(place - waiting.begin());
    ASSERT_LT(age, oldest);
    out_of_order += age != 0;
    std::iter_swap(waiting.begin(), place);
    waiting.pop_front();
    EXPECT_EQ(quarantine_.statistics().weight, waiting.size() * 64);
  }
  EXPECT_GT(out_of_order, 4000U);
  EXPECT_FALSE(quarantine_.take().has_value());
}

TEST_F(QuarantineTest, GivesUpWhatIsBeyondTheBound) {
  for (std::uint32_t number = 1; number <= 1000; ++number) {
    EXPECT_FALSE(quarantine_.add(object(number, 4096), kPlenty).has_value());
  }
  EXPECT_FALSE(quarantine_.add({&pool_, 512, 7}, kPlenty).has_value());  // sealed pages
  EXPECT_EQ(quarantine_.statistics().weight, 1032 * kPageSize);
  EXPECT_FALSE(quarantine_.take_excess(kPlenty).has_value());
  while (quarantine_.take_excess(18 * kMiB).has_value()) {  // of which up to two are the sealed pages
  }
  EXPECT_LE(quarantine_.statistics().weight, kMiB);
  EXPECT_GT(quarantine_.statistics().weight + 32 * kPageSize, kMiB);
}

TEST_F(QuarantineTest, TheHeavyDoNotWait) {
  EXPECT_FALSE(quarantine_.add({&pool_, 8 * kMiB / kPageSize, 7}, 0).has_value());
  EXPECT_TRUE(quarantine_.add({&pool_, 9 * kMiB / kPageSize, 7}, 0).has_value());
  EXPECT_FALSE(quarantine_.add({&pool_, 9 * kMiB / kPageSize, 7}, kPlenty).has_value());
}

TEST_F(QuarantineTest, HoldsSoManyAndLosesNone) {
  std::set<std::uint32_t> outside;
  constexpr std::uint32_t kNumber = 2 * Quarantine::kMostEntries;
  for (std::uint32_t number = 1; number <= kNumber; ++number) {
    if (const auto left = quarantine_.add(object(number, 16), 0)) {
      EXPECT_TRUE(outside.insert(number_of(*left)).second);
    }
  }
  EXPECT_EQ(outside.size(), kNumber - Quarantine::kMostEntries);
  EXPECT_EQ(quarantine_.statistics().entries, Quarantine::kMostEntries);
  while (const auto left = quarantine_.take()) EXPECT_TRUE(outside.insert(number_of(*left)).second);
  EXPECT_EQ(outside.size(), kNumber);
  EXPECT_EQ(quarantine_.statistics().weight, 0U);
}

TEST_F(QuarantineTest, WithoutMemoryNothingWaits) {
  while (pool_.allocate(kPageSize) != nullptr) {
  }
  const auto left = quarantine_.add(object(1, 16), 0);
  ASSERT_TRUE(left.has_value());
  EXPECT_EQ(number_of(*left), 1U);
  EXPECT_EQ(quarantine_.statistics().entries, 0U);
}

}  // namespace
}  // namespace polder
