#include "vm/metadata.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "unit/vm/metadata_fixture.h"
#include "vm/budget.h"

namespace polder {
namespace {

bool is_zero(const void* memory, std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(memory);
  return std::all_of(bytes, bytes + size, [](unsigned char byte) { return byte == 0; });
}

TEST(MetadataSpace, GivesPageAlignedPiecesInOrder) {
  Reservation reservation(16 * kPageSize);
  MetadataSpace space = reservation.space();
  EXPECT_EQ(space.take(1), reservation.base());
  EXPECT_EQ(space.take(kPageSize + 1), reservation.base() + kPageSize);
  EXPECT_EQ(space.take(13 * kPageSize), reservation.base() + 3 * kPageSize);
}

TEST(MetadataSpaceDeathTest, EndsTheProgramWhenItIsTooSmall) {
  Reservation reservation(2 * kPageSize);
  MetadataSpace space = reservation.space();
  EXPECT_DEATH((void)space.take(2 * kPageSize + 1), "metadata space is too small");
}

TEST(MetadataArray, IsAccessibleAsFarAsEnsured) {
  Reservation reservation(MetadataArray<std::uint64_t>::bytes_for(100'000));
  MetadataSpace space = reservation.space();
  MetadataArray<std::uint64_t> array(space, 100'000);
  ASSERT_TRUE(array.ensure(10).ok());
  EXPECT_EQ(array[9], 0U);
  array[9] = 7;
  ASSERT_TRUE(array.ensure(100'000).ok());
  ASSERT_TRUE(array.ensure(5).ok());
  EXPECT_EQ(array[9], 7U);
  EXPECT_EQ(array[99'999], 0U);
}

TEST(MetadataArrayDeathTest, IsNotAccessibleBeyond) {
  Reservation reservation(MetadataArray<std::uint64_t>::bytes_for(100'000));
  MetadataSpace space = reservation.space();
  MetadataArray<std::uint64_t> array(space, 100'000);
  ASSERT_TRUE(array.ensure(512).ok());
  // By the signal itself: no report of a sanitizer.
  EXPECT_EXIT((std::signal(SIGSEGV, SIG_DFL), array[512] = 1), testing::KilledBySignal(SIGSEGV), "");
}

class MetadataPoolTest : public testing::Test {
 protected:
  static constexpr std::size_t kSize = std::size_t{8} << 20;

  Reservation reservation_{kSize};
  Budget budget_{Budget::kUnlimited};
  MetadataPool pool_{reservation_.base(), kSize, budget_};
};

TEST_F(MetadataPoolTest, GivesAlignedZeroedMemory) {
  for (const std::size_t size : {1U, 63U, 64U, 65U, 4000U, 1U << 20}) {
    void* const memory = pool_.allocate(size);
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % 64, 0U);
    EXPECT_TRUE(pool_.contains(memory));
    EXPECT_TRUE(is_zero(memory, size));
    std::memset(memory, 0xFF, size);
    pool_.free(memory, size);
    void* const again = pool_.allocate(size);
    EXPECT_EQ(again, memory);
    EXPECT_TRUE(is_zero(again, size));
    pool_.free(again, size);
  }
}

TEST_F(MetadataPoolTest, ChargesPagesAsItGrows) {
  EXPECT_EQ(budget_.charged().value, 0U);
  void* const first = pool_.allocate(64);
  EXPECT_EQ(budget_.charged().value, 1U);
  for (int i = 1; i < 64; ++i) EXPECT_NE(pool_.allocate(64), nullptr);
  EXPECT_EQ(budget_.charged().value, 1U);
  EXPECT_NE(pool_.allocate(64), nullptr);
  EXPECT_EQ(budget_.charged().value, 2U);
  pool_.free(first, 64);
  EXPECT_EQ(pool_.allocate(40), first);
  EXPECT_EQ(budget_.charged().value, 2U);
  EXPECT_NE(pool_.allocate(1 << 20), nullptr);
  EXPECT_EQ(budget_.charged().value, 258U);
}

TEST_F(MetadataPoolTest, GoesOnBeyondTheBudget) {
  budget_.set_limit({4});
  EXPECT_NE(pool_.allocate(4 * kPageSize - 100), nullptr);  // takes 16 KiB
  EXPECT_NE(pool_.allocate(64), nullptr);
  EXPECT_EQ(budget_.charged().value, 5U);
}

TEST_F(MetadataPoolTest, GivesNothingBeyondTheReservation) {
  std::vector<void*> all;
  while (void* const memory = pool_.allocate(1 << 20)) all.push_back(memory);
  EXPECT_EQ(all.size(), kSize >> 20);
  EXPECT_EQ(pool_.allocate(64), nullptr);
  pool_.free(all.back(), 1 << 20);
  EXPECT_NE(pool_.allocate(1 << 20), nullptr);
}

TEST_F(MetadataPoolTest, ObjectsNeverOverlap) {
  struct Object {
    unsigned char* memory;
    std::size_t size;
    unsigned char fill;
  };
  std::mt19937 random(1);
  std::vector<Object> live;
  for (int step = 0; step < 200'000; ++step) {
    if (live.size() < 200 && random() % 2 == 0) {
      const std::size_t size = 1 + random() % (random() % 16 == 0 ? 20'000 : 300);
      auto* const memory = static_cast<unsigned char*>(pool_.allocate(size));
      ASSERT_NE(memory, nullptr);
      ASSERT_TRUE(is_zero(memory, size));
      const auto fill = static_cast<unsigned char>(1 + random() % 255);
      std::memset(memory, fill, size);
      live.push_back({memory, size, fill});
    } else if (!live.empty()) {
      std::swap(live[random() % live.size()], live.back());
      const Object object = live.back();
      live.pop_back();
      ASSERT_TRUE(std::all_of(object.memory, object.memory + object.size,
                              [&](unsigned char byte) { return byte == object.fill; }));
      pool_.free(object.memory, object.size);
    }
  }
}

TEST_F(MetadataPoolTest, ServesManyThreads) {
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread] {
      std::mt19937 random(thread);
      std::vector<std::pair<unsigned*, std::size_t>> live;
      for (int step = 0; step < 20'000; ++step) {
        if (live.size() < 50 && random() % 2 == 0) {
          const std::size_t size = sizeof(unsigned) + random() % 500;
          auto* const memory = static_cast<unsigned*>(pool_.allocate(size));
          ASSERT_NE(memory, nullptr);
          *memory = thread;
          live.emplace_back(memory, size);
        } else if (!live.empty()) {
          ASSERT_EQ(*live.back().first, thread);
          pool_.free(live.back().first, live.back().second);
          live.pop_back();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

using MetadataPoolDeathTest = MetadataPoolTest;

TEST_F(MetadataPoolDeathTest, RefusesForeignMemory) {
  int local = 0;
  EXPECT_DEATH(pool_.free(&local, 64), "freed to a metadata pool that it is not from");
  EXPECT_DEATH((void)pool_.allocate((1 << 20) + 1), "bad size for the metadata pool");
}

}  // namespace
}  // namespace polder
