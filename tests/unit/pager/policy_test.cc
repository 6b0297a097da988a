#include "pager/policy/policy.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <random>
#include <set>
#include <vector>

#include "os/mapping.h"
#include "pager/policy/policies.h"

namespace polder {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};
constexpr PageMask kFirstPage = 1;

class Ageing {
 public:
  static constexpr std::uint32_t kFolios = 64;

  explicit Ageing(PolicyKind kind)
      : memory_(os::reserve(Nodes::bytes_for(kFolios), kPageSize).value),
        nodes_(make_nodes(memory_)),
        any_(kind, nodes_) {}
  ~Ageing() { os::release(memory_, Nodes::bytes_for(kFolios)); }
  Ageing(const Ageing&) = delete;
  Ageing& operator=(const Ageing&) = delete;

  Policy* operator->() { return &*any_; }
  Policy& policy() { return *any_; }

  void arrive(std::uint32_t folio, Arrival how, PageMask pages = kAllPages) {
    (*any_).arrived(FolioId{folio}, pages, how);
  }
  Victim choose() {
    Victim victim;
    return (*any_).choose(victim) ? victim : Victim{FolioId{kNone}, 0};
  }
  std::uint32_t choose_folio() { return choose().folio.value; }

 private:
  using Nodes = MetadataArray<AgeingNode>;

  static Nodes make_nodes(char* memory) {
    MetadataSpace space(memory, Nodes::bytes_for(kFolios));
    Nodes nodes(space, kFolios);
    EXPECT_TRUE(nodes.ensure(kFolios).ok());
    return nodes;
  }

  char* memory_;
  Nodes nodes_;
  AnyPolicy any_;
};

// --- what holds for all -----------------------------------------------------------------------------------------------

class EveryPolicy : public testing::TestWithParam<PolicyKind> {
 protected:
  Ageing ageing_{GetParam()};
};

TEST_P(EveryPolicy, FirstTouchesLeaveInOrder) {
  for (std::uint32_t i = 0; i < 5; ++i) ageing_.arrive(i, Arrival::zero);
  for (std::uint32_t i = 0; i < 5; ++i) EXPECT_EQ(ageing_.choose_folio(), i);
  EXPECT_EQ(ageing_.choose_folio(), kNone);
}

// With pinned folios coming back for ever, the others must still have their turn.
TEST_P(EveryPolicy, RefusedFoliosDoNotShieldOthers) {
  for (std::uint32_t i = 0; i < 20; ++i) ageing_.arrive(i, i % 2 == 0 ? Arrival::zero : Arrival::ahead);
  for (std::uint32_t i = 0; i < 5; ++i) ageing_.arrive(i, Arrival::staged);
  std::set<std::uint32_t> chosen;
  for (int round = 0; round < 80; ++round) {
    const std::uint32_t victim = ageing_.choose_folio();
    chosen.insert(victim);
    ageing_.arrive(victim, Arrival::refused);
  }
  EXPECT_EQ(chosen.size(), 20U);
}

// Every page that arrived leaves, and none does twice, whatever happens in between.
TEST_P(EveryPolicy, NothingIsLostOrChosenTwice) {
  std::mt19937 random(7);
  std::array<PageMask, Ageing::kFolios> there{};
  const auto leave = [&](const Victim& victim) {
    PageMask& pages = there[victim.folio.value];
    EXPECT_NE(pages, 0) << victim.folio.value;
    pages &= static_cast<PageMask>(~victim.pages);
  };
  const std::array kWays = {Arrival::converted, Arrival::zero,  Arrival::staged,
                            Arrival::stored,    Arrival::ahead, Arrival::refused};
  for (int step = 0; step < 100'000; ++step) {
    if (random() % 3 != 0) {
      const std::uint32_t folio = random() % Ageing::kFolios;
      const auto pages = static_cast<PageMask>(random() % kAllPages + 1);
      ageing_.arrive(folio, kWays[random() % kWays.size()], pages);
      there[folio] |= pages;
    } else {
      const Victim victim = ageing_.choose();
      if (victim.folio.value != kNone) leave(victim);
    }
    std::uint64_t expected = 0;
    for (const PageMask pages : there) expected += pages != 0;
    ASSERT_EQ(ageing_->aged().value, expected);
  }
  for (Victim victim = ageing_.choose(); victim.folio.value != kNone; victim = ageing_.choose()) leave(victim);
  for (const PageMask pages : there) EXPECT_EQ(pages, 0);
}

TEST_P(EveryPolicy, AChildStartsWithEmptyLists) {
  for (std::uint32_t i = 0; i < 5; ++i) ageing_.arrive(i, Arrival::staged);
  ageing_->reset_in_child(FolioId{Ageing::kFolios});
  EXPECT_EQ(ageing_->aged(), FolioCount{0});
  ageing_.arrive(3, Arrival::zero);
  EXPECT_EQ(ageing_.choose_folio(), 3U);
  EXPECT_EQ(ageing_.choose_folio(), kNone);
}

INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicy,
                         testing::Values(PolicyKind::fifo, PolicyKind::clock, PolicyKind::enhanced_clock,
                                         PolicyKind::two_list_lru, PolicyKind::multi_gen_lru));

// --- what only some do ------------------------------------------------------------------------------------------------

TEST(FifoPolicy, KnowsNothingOfUse) {
  Ageing ageing(PolicyKind::fifo);
  for (std::uint32_t i = 0; i < 3; ++i) ageing.arrive(i, Arrival::zero);
  ageing.arrive(0, Arrival::staged, kFirstPage);
  EXPECT_EQ(ageing.choose_folio(), 0U);
}

TEST(ClockPolicy, WhatWasReferencedHasASecondChanceAndNoThird) {
  Ageing ageing(PolicyKind::clock);
  for (std::uint32_t i = 0; i < 3; ++i) ageing.arrive(i, Arrival::converted);
  ageing.arrive(0, Arrival::stored, kFirstPage);
  ageing.arrive(1, Arrival::ahead, kFirstPage);
  EXPECT_EQ(ageing.choose_folio(), 1U);
  EXPECT_EQ(ageing.choose_folio(), 2U);
  EXPECT_EQ(ageing.choose_folio(), 0U);
}

TEST(ClockPolicy, EnhancedItPrefersWhatNeedsNoWrite) {
  Ageing ageing(PolicyKind::enhanced_clock);
  ageing.arrive(0, Arrival::zero);
  ageing.arrive(1, Arrival::ahead);
  ageing.arrive(2, Arrival::ahead);
  ageing.arrive(1, Arrival::stored, kFirstPage);  // referenced
  EXPECT_EQ(ageing.choose_folio(), 2U);
  EXPECT_EQ(ageing.choose_folio(), 0U);
  EXPECT_EQ(ageing.choose_folio(), 1U);
}

class TwoLists : public testing::Test {
 protected:
  FolioCount active() { return static_cast<TwoListLru&>(ageing_.policy()).active(); }

  Ageing ageing_{PolicyKind::two_list_lru};
};

TEST_F(TwoLists, ASoftFaultSavesItsFolio) {
  for (std::uint32_t i = 0; i < 6; ++i) ageing_.arrive(i, Arrival::zero);
  ageing_.arrive(0, Arrival::staged);
  EXPECT_EQ(active(), FolioCount{1});
  for (std::uint32_t i = 1; i < 6; ++i) EXPECT_EQ(ageing_.choose_folio(), i);
  EXPECT_EQ(ageing_.choose_folio(), 0U);
}

TEST_F(TwoLists, AnEarlyRefaultIsActivatedALateOneIsNot) {
  for (std::uint32_t i = 0; i < 12; ++i) ageing_.arrive(i, Arrival::zero);
  for (std::uint32_t i = 0; i < 4; ++i) ageing_.arrive(i, Arrival::staged);
  ASSERT_EQ(active(), FolioCount{4});
  ASSERT_EQ(ageing_.choose_folio(), 4U);
  ageing_.arrive(4, Arrival::stored);
  EXPECT_EQ(active(), FolioCount{5});
  ASSERT_EQ(ageing_.choose_folio(), 5U);
  for (int i = 0; i < 6; ++i) ageing_.choose_folio();
  const FolioCount before = active();
  ageing_.arrive(5, Arrival::stored);
  EXPECT_EQ(active(), before);
}

TEST_F(TwoLists, ActiveNeverStarvesInactive) {
  for (std::uint32_t i = 0; i < 30; ++i) ageing_.arrive(i, Arrival::staged);
  ageing_.choose_folio();
  EXPECT_LE(active().value, 2 * (ageing_->aged().value - active().value) + 2);
}

TEST_F(TwoLists, WhatWasHotOnceLeavesWhenItIsNotAnyMore) {
  ageing_.arrive(0, Arrival::staged);
  ageing_.arrive(1, Arrival::staged);
  for (std::uint32_t i = 2; i < 12; ++i) ageing_.arrive(i, Arrival::zero);
  // A scan: whatever is chosen comes again. Folio 1 proves itself each time.
  unsigned scanned = 0;
  for (std::uint32_t folio = ageing_.choose_folio(); folio != 0 && scanned < 1000; folio = ageing_.choose_folio()) {
    ageing_.arrive(folio, folio == 1 ? Arrival::staged : Arrival::zero);
    ++scanned;
  }
  EXPECT_GT(scanned, 5U);
  EXPECT_LT(scanned, 100U);
}

TEST_F(TwoLists, WhatIsFilledAheadDoesNotGetYounger) {
  for (std::uint32_t i = 0; i < 3; ++i) ageing_.arrive(i, Arrival::zero);
  ageing_.arrive(0, Arrival::ahead);
  EXPECT_EQ(ageing_.choose_folio(), 0U);
}

class Generations : public testing::Test {
 protected:
  Ageing ageing_{PolicyKind::multi_gen_lru};
};

TEST_F(Generations, APageThatComesBackDoesNotMakeItsNeighboursYounger) {
  for (std::uint32_t i = 0; i < 4; ++i) ageing_.arrive(i, Arrival::zero);
  ageing_.arrive(0, Arrival::staged, kFirstPage);
  const Victim victim = ageing_.choose();
  EXPECT_EQ(victim.folio, FolioId{0});
  EXPECT_EQ(victim.pages, static_cast<PageMask>(kAllPages & ~kFirstPage));
  EXPECT_EQ(ageing_->aged(), FolioCount{4});
  for (std::uint32_t i = 1; i < 4; ++i) EXPECT_EQ(ageing_.choose_folio(), i);
  EXPECT_EQ(ageing_.choose_folio(), 0U);
}

TEST_F(Generations, EarlyRefaultsStayLongerThanFirstTouches) {
  for (std::uint32_t i = 0; i < 8; ++i) ageing_.arrive(i, Arrival::zero);
  EXPECT_EQ(ageing_.choose_folio(), 0U);
  ageing_.arrive(0, Arrival::stored);
  for (std::uint32_t i = 8; i < 16; ++i) ageing_.arrive(i, Arrival::zero);
  for (std::uint32_t i = 1; i < 16; ++i) EXPECT_EQ(ageing_.choose_folio(), i);
  EXPECT_EQ(ageing_.choose_folio(), 0U);
}

TEST_F(Generations, WhatWasReadAheadLeavesBeforeWhatWasAskedFor) {
  ageing_.arrive(0, Arrival::staged);
  ageing_.arrive(1, Arrival::zero);
  ageing_.arrive(2, Arrival::ahead);
  for (std::uint32_t i = 3; i-- > 0;) EXPECT_EQ(ageing_.choose_folio(), i);
}

TEST_F(Generations, WarmPagesAreSparedOnceTheyAreKnownToComeBackMoreOften) {
  const auto expect_next = [this](std::uint32_t first, std::uint32_t end) {
    for (std::uint32_t i = first; i < end; ++i) EXPECT_EQ(ageing_.choose_folio(), i);
  };
  for (std::uint32_t i = 0; i < 10; ++i) ageing_.arrive(i, Arrival::staged);
  for (std::uint32_t i = 32; i < 64; ++i) ageing_.arrive(i, Arrival::refused);
  expect_next(0, 10);  // nothing is known yet
  for (std::uint32_t i = 0; i < 10; ++i) ageing_.arrive(i, Arrival::stored);
  ageing_.arrive(20, Arrival::refused);
  expect_next(32, 64);  // these do not come back
  // As old as the ten, younger even.
  expect_next(20, 21);
  expect_next(0, 10);
}

}  // namespace
}  // namespace polder
