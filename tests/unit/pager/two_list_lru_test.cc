#include "pager/two_list_lru.h"

#include <gtest/gtest.h>

#include <array>
#include <list>
#include <random>
#include <vector>

#include "os/mapping.h"

namespace polder {
namespace {

class TwoListLruTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kFolios = 64;
  using Nodes = MetadataArray<TwoListLru::Node>;

  TwoListLruTest() : memory_(os::reserve(Nodes::bytes_for(kFolios), kPageSize).value) {
    MetadataSpace space(memory_, Nodes::bytes_for(kFolios));
    nodes_ = Nodes(space, kFolios);
    EXPECT_TRUE(nodes_.ensure(kFolios).ok());
  }
  ~TwoListLruTest() override { os::release(memory_, Nodes::bytes_for(kFolios)); }

  std::uint32_t choose_one() {
    std::array<FolioId, 1> victim;
    return lru_.choose(victim) == 1 ? victim[0].value : ~0U;
  }
  void arrive(std::uint32_t folio, Arrival how) { lru_.arrived(FolioId{folio}, how); }

  char* memory_;
  Nodes nodes_;
  TwoListLru lru_{nodes_};
};

TEST_F(TwoListLruTest, FirstTouchesLeaveInOrder) {
  for (std::uint32_t i = 0; i < 5; ++i) arrive(i, Arrival::zero);
  for (std::uint32_t i = 0; i < 5; ++i) EXPECT_EQ(choose_one(), i);
  EXPECT_EQ(choose_one(), ~0U);
}

TEST_F(TwoListLruTest, ASoftFaultSavesItsFolio) {
  for (std::uint32_t i = 0; i < 6; ++i) arrive(i, Arrival::zero);
  arrive(0, Arrival::staged);
  EXPECT_EQ(lru_.active(), FolioCount{1});
  for (std::uint32_t i = 1; i < 6; ++i) EXPECT_EQ(choose_one(), i);
  EXPECT_EQ(choose_one(), 0U);
}

TEST_F(TwoListLruTest, AnEarlyRefaultIsActivatedALateOneIsNot) {
  for (std::uint32_t i = 0; i < 12; ++i) arrive(i, Arrival::zero);
  for (std::uint32_t i = 0; i < 4; ++i) arrive(i, Arrival::staged);
  ASSERT_EQ(lru_.active(), FolioCount{4});
  ASSERT_EQ(choose_one(), 4U);
  arrive(4, Arrival::stored);
  EXPECT_EQ(lru_.active(), FolioCount{5});
  ASSERT_EQ(choose_one(), 5U);
  for (int i = 0; i < 6; ++i) choose_one();
  const FolioCount before = lru_.active();
  arrive(5, Arrival::stored);
  EXPECT_EQ(lru_.active(), before);
}

TEST_F(TwoListLruTest, ActiveNeverStarvesInactive) {
  for (std::uint32_t i = 0; i < 30; ++i) arrive(i, Arrival::staged);
  choose_one();
  EXPECT_LE(lru_.active().value, 2 * (lru_.aged().value - lru_.active().value) + 2);
}

// With pinned folios coming back for ever, the active ones must still have their turn.
TEST_F(TwoListLruTest, RefusedFoliosDoNotShieldTheActiveOnes) {
  for (std::uint32_t i = 0; i < 20; ++i) arrive(i, Arrival::zero);
  for (std::uint32_t i = 0; i < 5; ++i) arrive(i, Arrival::staged);
  std::array<bool, 20> chosen{};
  for (int round = 0; round < 60; ++round) {
    const std::uint32_t victim = choose_one();
    chosen[victim] = true;
    arrive(victim, Arrival::refused);
  }
  for (const bool was_chosen : chosen) EXPECT_TRUE(was_chosen);
}

TEST_F(TwoListLruTest, WhatIsFilledAheadDoesNotGetYounger) {
  for (std::uint32_t i = 0; i < 3; ++i) arrive(i, Arrival::zero);
  arrive(0, Arrival::ahead);
  EXPECT_EQ(choose_one(), 0U);
}

// Every folio that arrived and was not chosen since is chosen exactly once when the lists are drained.
TEST_F(TwoListLruTest, NothingIsLostOrChosenTwice) {
  std::mt19937 random(7);
  std::array<bool, kFolios> aged{};
  const std::array kWays = {Arrival::converted, Arrival::zero,  Arrival::staged,
                            Arrival::stored,    Arrival::ahead, Arrival::refused};
  for (int step = 0; step < 100000; ++step) {
    if (random() % 3 != 0) {
      const std::uint32_t folio = random() % kFolios;
      arrive(folio, kWays[random() % kWays.size()]);
      aged[folio] = true;
    } else {
      std::array<FolioId, 3> victims;
      const std::size_t count = lru_.choose(victims);
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_TRUE(aged[victims[i].value]);
        aged[victims[i].value] = false;
      }
    }
    std::uint64_t expected = 0;
    for (const bool is_aged : aged) expected += is_aged;
    ASSERT_EQ(lru_.aged().value, expected);
  }
  for (std::uint32_t folio = choose_one(); folio != ~0U; folio = choose_one()) {
    ASSERT_TRUE(aged[folio]);
    aged[folio] = false;
  }
  for (const bool is_aged : aged) EXPECT_FALSE(is_aged);
}

TEST_F(TwoListLruTest, AChildStartsWithEmptyLists) {
  for (std::uint32_t i = 0; i < 5; ++i) arrive(i, Arrival::staged);
  lru_.reset_in_child(FolioId{kFolios});
  EXPECT_EQ(lru_.aged(), FolioCount{0});
  arrive(3, Arrival::zero);
  EXPECT_EQ(choose_one(), 3U);
  EXPECT_EQ(choose_one(), ~0U);
}

}  // namespace
}  // namespace polder
