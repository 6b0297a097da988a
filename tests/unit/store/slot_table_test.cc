// Directed tests of SlotTable: where slots come from, what holds do, what is charged.
#include "store/slot_table.h"

#include <gtest/gtest.h>

#include <vector>

#include "os/thread.h"
#include "vm/budget.h"

namespace polder {
namespace {

using Span = SlotTable::Span;

class SlotTableTest : public testing::Test {
 protected:
  void make(std::uint32_t capacity) { ASSERT_TRUE(table_.create(capacity, budget_).ok()); }
  void release(Span span) {
    for (std::uint32_t i = 0; i < span.count; ++i) table_.release(span.first + i);
  }

  Budget budget_{Budget::kUnlimited};
  SlotTable table_;
};

TEST_F(SlotTableTest, AllocationsFollowEachOther) {
  make(4096);
  std::uint32_t next = 0;
  for (const std::uint32_t wanted : {16U, 16U, 32U, 64U, 1U, 3U, 60U, 64U}) {
    const Span span = table_.allocate(wanted);
    EXPECT_EQ(span.first, next);
    EXPECT_EQ(span.count, wanted);
    next += wanted;
  }
  EXPECT_EQ(table_.used(), next);
  EXPECT_EQ(table_.frontier(), SlotTable::kSectionSlots);
  table_.verify();
}

TEST_F(SlotTableTest, FillsUpExactly) {
  make(320);
  std::uint32_t taken = 0;
  while (true) {
    const Span span = table_.allocate(48);
    if (span.count == 0) break;
    taken += span.count;
  }
  EXPECT_EQ(taken, 320U);
  EXPECT_EQ(table_.used(), 320U);
  table_.verify();
  table_.release(77);
  EXPECT_EQ(table_.allocate(48).first, 77U);
  EXPECT_EQ(table_.allocate(1).count, 0U);
}

TEST_F(SlotTableTest, RunsMayBeLongerThanACluster) {
  make(1024);
  const Span span = table_.allocate(200);
  EXPECT_EQ(span.first, 0U);
  EXPECT_EQ(span.count, 200U);
  table_.verify();
}

TEST_F(SlotTableTest, PrefersFreeClustersToGrowth) {
  make(4096);
  std::vector<Span> spans;
  for (int i = 0; i < 4; ++i) spans.push_back(table_.allocate(64));
  release(spans[1]);
  EXPECT_EQ(table_.allocate(64).first, 64U);
  EXPECT_EQ(table_.frontier(), 256U);
}

TEST_F(SlotTableTest, PrefersWorthwhilePiecesToGrowthButNotScraps) {
  make(4096);
  for (int i = 0; i < 4; ++i) ASSERT_EQ(table_.allocate(64).count, 64U);
  for (std::uint32_t slot = 70; slot < 90; ++slot) table_.release(slot);
  table_.release(3);
  const Span piece = table_.allocate(64);
  EXPECT_EQ(piece.first, 70U);
  EXPECT_EQ(piece.count, 20U);
  const Span grown = table_.allocate(64);
  EXPECT_EQ(grown.first, 256U);
  EXPECT_EQ(grown.count, 64U);
}

TEST_F(SlotTableTest, TakesTheLongestScrapWhenFull) {
  make(256);
  for (int i = 0; i < 4; ++i) ASSERT_EQ(table_.allocate(64).count, 64U);
  for (const std::uint32_t slot : {5U, 90U, 91U, 92U, 200U, 201U}) table_.release(slot);
  EXPECT_EQ(table_.allocate(64).first, 90U);
  EXPECT_EQ(table_.allocate(64).first, 200U);
  EXPECT_EQ(table_.allocate(64).first, 5U);
  EXPECT_EQ(table_.allocate(64).count, 0U);
  table_.verify();
}

TEST_F(SlotTableTest, ReferencesKeepASlot) {
  make(64);
  const Span span = table_.allocate(64);
  ASSERT_EQ(span.count, 64U);
  table_.set_hash(7, {1, 2});
  table_.reference(7);
  table_.release(7);
  EXPECT_EQ(table_.hash(7), (PageHash{1, 2}));
  EXPECT_EQ(table_.allocate(1).count, 0U);
  table_.release(7);
  EXPECT_EQ(table_.allocate(1).first, 7U);
}

TEST_F(SlotTableTest, HeldSlotsStayOutOfCirculation) {
  make(64);
  ASSERT_EQ(table_.allocate(32).count, 32U);
  const Result<SlotHold*> hold = table_.hold_used();
  ASSERT_TRUE(hold.ok());
  for (std::uint32_t slot = 0; slot < 32; ++slot) table_.release(slot);
  EXPECT_EQ(table_.used(), 0U);
  table_.verify();
  const Span rest = table_.allocate(64);
  EXPECT_EQ(rest.first, 32U);
  EXPECT_EQ(rest.count, 32U);
  EXPECT_EQ(table_.allocate(64).count, 0U);
  // Not held: used only after the hold was taken.
  table_.release(40);
  EXPECT_EQ(table_.allocate(1).first, 40U);
  table_.release_hold(hold.value);
  table_.verify();
  EXPECT_EQ(table_.allocate(64).count, 32U);
}

TEST_F(SlotTableTest, TheLastOfSeveralHoldsFrees) {
  make(64);
  ASSERT_EQ(table_.allocate(2).count, 2U);
  SlotHold* const first = table_.hold_used().value;
  table_.release(0);
  SlotHold* const second = table_.hold_used().value;  // holds slot 1 only
  table_.release(1);
  ASSERT_EQ(table_.allocate(62).count, 62U);
  table_.release_hold(first);
  table_.verify();
  EXPECT_EQ(table_.allocate(2).first, 0U);
  EXPECT_EQ(table_.allocate(2).count, 0U);
  table_.release_hold(second);
  EXPECT_EQ(table_.allocate(2).first, 1U);
  table_.verify();
}

TEST_F(SlotTableTest, BadSlotsStayAwayUntilForgiven) {
  make(64);
  ASSERT_EQ(table_.allocate(64).count, 64U);
  table_.mark_bad(10);
  for (std::uint32_t slot = 0; slot < 64; ++slot) {
    if (slot != 10) table_.release(slot);
  }
  EXPECT_EQ(table_.used(), 0U);
  EXPECT_EQ(table_.bad(), 1U);
  std::uint32_t taken = 0;
  for (Span span = table_.allocate(64); span.count != 0; span = table_.allocate(64)) {
    EXPECT_TRUE(span.first + span.count <= 10 || span.first > 10);
    taken += span.count;
  }
  EXPECT_EQ(taken, 63U);
  table_.verify();
  os::install_message_sink();
  EXPECT_DEATH(table_.release(10), "released more often than referenced");
  table_.forgive_bad();
  EXPECT_EQ(table_.bad(), 0U);
  EXPECT_EQ(table_.allocate(64).first, 10U);
  table_.verify();
}

TEST_F(SlotTableTest, RewritableSupplyTakesOnlyWrittenSlots) {
  make(1024);
  const Span span = table_.allocate(64);
  for (std::uint32_t slot = 0; slot < 20; ++slot) table_.set_hash(slot, {slot, 0});
  release(span);
  table_.set_supply(SlotTable::Supply::rewritable);
  const Span again = table_.allocate(64);
  EXPECT_EQ(again.first, 0U);
  EXPECT_EQ(again.count, 20U);
  EXPECT_EQ(table_.allocate(64).count, 0U);
  EXPECT_EQ(table_.frontier(), 256U);
  table_.set_supply(SlotTable::Supply::all);
  EXPECT_EQ(table_.allocate(64).count, 64U);
  table_.verify();
}

TEST_F(SlotTableTest, ChargesWhatItUses) {
  make(1U << 20);
  EXPECT_EQ(budget_.charged(), PageCount{}) << "reserving costs nothing";
  std::vector<Span> spans;
  for (int i = 0; i < 1024; ++i) spans.push_back(table_.allocate(64));  // 256 MiB of file
  EXPECT_EQ(budget_.charged(), table_.charged());
  // At most 20 bytes a slot.
  EXPECT_LE(bytes(table_.charged()), std::size_t{20} * 65536);
  table_.verify();
  for (const Span span : spans) release(span);
  std::uint32_t dropped = 0;
  while (true) {
    const Span span = table_.take_unused_section(1024);
    if (span.count == 0) break;
    dropped += span.count;
  }
  EXPECT_EQ(dropped, 65536U);
  table_.verify();
  EXPECT_LE(bytes(table_.charged()), std::size_t{3} * 65536) << "hashes are given back";
  SlotHold* const hold = table_.hold_used().value;
  EXPECT_EQ(budget_.charged(), table_.charged());
  table_.release_hold(hold);
  table_.destroy();
  EXPECT_EQ(budget_.charged(), PageCount{});
}

TEST_F(SlotTableTest, UnusedSectionsComeBackZeroed) {
  make(512);
  const Span span = table_.allocate(256);
  ASSERT_EQ(span.count, 256U);
  for (std::uint32_t slot = 0; slot < 256; ++slot) table_.set_hash(slot, {slot, slot});
  EXPECT_EQ(table_.take_unused_section(10).count, 0U) << "in use";
  release(span);
  const Span unused = table_.take_unused_section(10);
  EXPECT_EQ(unused.first, 0U);
  EXPECT_EQ(unused.count, 256U);
  EXPECT_EQ(table_.take_unused_section(10).count, 0U);
  const Span again = table_.allocate(256);
  ASSERT_EQ(again.count, 256U);
  EXPECT_EQ(table_.hash(again.first + 9), PageHash{});
  table_.verify();
}

TEST_F(SlotTableTest, ChildRecounts) {
  make(512);
  ASSERT_EQ(table_.allocate(200).count, 200U);
  SlotHold* const hold = table_.hold_used().value;
  ASSERT_NE(hold, nullptr);
  table_.release(3);
  table_.forget_holds();
  table_.clear_counts();
  EXPECT_EQ(table_.used(), 0U);
  table_.verify();
  for (std::uint32_t slot = 10; slot < 20; ++slot) table_.recount(slot);
  table_.recount(10);
  EXPECT_EQ(table_.used(), 10U);
  table_.verify();
  table_.release(10);
  for (std::uint32_t slot = 10; slot < 20; ++slot) table_.release(slot);
  EXPECT_EQ(table_.used(), 0U);
  table_.verify();
}

TEST_F(SlotTableTest, LargeTablesReserveOnly) {
  make(1U << 28);
  EXPECT_EQ(table_.allocate(64).count, 64U);
  EXPECT_LE(table_.charged(), PageCount{4});
}

class SlotTableDeathTest : public SlotTableTest {
 protected:
  void SetUp() override { os::install_message_sink(); }
};

TEST_F(SlotTableDeathTest, MisuseIsCaught) {
  make(64);
  ASSERT_EQ(table_.allocate(1).count, 1U);
  EXPECT_DEATH(table_.release(1), "released more often than referenced");
  EXPECT_DEATH(table_.reference(1), "reference to a slot that has none");
  EXPECT_DEATH(table_.release(64), "no such slot");
  EXPECT_DEATH(table_.set_hash(1, {}), "hash for a free slot");
  table_.reference(0);
  EXPECT_DEATH(table_.mark_bad(0), "slot is shared");
  for (int i = 2; i < SlotTable::kMaxReferences; ++i) table_.reference(0);
  EXPECT_DEATH(table_.reference(0), "or too many");
}

}  // namespace
}  // namespace polder
