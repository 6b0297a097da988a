// Random operations on tiny slot tables, compared with a model made of plain containers.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <vector>

#include "store/slot_table.h"
#include "vm/budget.h"

namespace polder {
namespace {

class Model {
 public:
  Model(std::uint32_t capacity, std::uint64_t seed) : random_(seed), capacity_(capacity) {
    EXPECT_TRUE(table_.create(capacity, budget_).ok());
  }

  void run(int steps) {
    for (int step = 0; step < steps && !testing::Test::HasFatalFailure(); ++step) {
      // Waves: mostly allocating, then mostly releasing, so that both ends of the range are met.
      const bool filling = step / 500 % 2 == 0;
      const std::uint64_t choice = random_() % 100;
      if (choice < (filling ? 45U : 15U)) {
        allocate();
      } else if (choice < 80) {
        release();
      } else if (choice < 88) {
        reference();
      } else if (choice < 90) {
        hold();
      } else if (choice < 93) {
        release_hold();
      } else if (choice < 97) {
        take_unused();
      } else if (choice < 98) {
        supply();
      } else {
        check_hash();
      }
      if (step % 16 == 0) check();
    }
    finish();
  }

  std::uint32_t peak() const { return peak_; }

 private:
  struct Slot {
    unsigned count = 0;
    PageHash hash;
  };

  bool is_free(std::uint32_t slot) const { return !used_.contains(slot) && !retired_.contains(slot) && slot != bad_; }

  bool usable(std::uint32_t slot) const {
    return is_free(slot) && (table_.supply() == SlotTable::Supply::all || written_.contains(slot));
  }

  void allocate() {
    const auto wanted = static_cast<std::uint32_t>(1 + random_() % (random_() % 4 == 0 ? 150 : 64));
    bool any = false;
    for (std::uint32_t slot = 0; slot < capacity_ && !any; ++slot) any = usable(slot);
    const SlotTable::Span span = table_.allocate(wanted);
    ASSERT_LE(span.count, wanted);
    ASSERT_EQ(span.count != 0, any);
    for (std::uint32_t slot = span.first; slot < span.first + span.count; ++slot) {
      ASSERT_LT(slot, capacity_);
      ASSERT_TRUE(usable(slot)) << slot;
      used_[slot] = {.count = 1, .hash = {}};
      if (random_() % 8 == 0) continue;  // a write that never happened; released like any other
      used_[slot].hash = {random_(), random_()};
      table_.set_hash(slot, used_[slot].hash);
      written_.insert(slot);
    }
    peak_ = std::max(peak_, static_cast<std::uint32_t>(used_.size()));
    if (span.count != 0 && bad_ == kNone && random_() % 50 == 0) {
      bad_ = span.first;
      table_.mark_bad(bad_);
      used_.erase(bad_);
    }
    if (bad_ != kNone && random_() % 100 == 0) {
      table_.forgive_bad();
      for (const auto& [hold, held] : holds_) {
        if (held.contains(bad_)) retired_.insert(bad_);
      }
      bad_ = kNone;
    }
  }

  auto any_used() { return used_.size() == 0 ? used_.end() : choose(); }
  std::map<std::uint32_t, Slot>::iterator choose() {
    const auto found = used_.lower_bound(static_cast<std::uint32_t>(random_() % capacity_));
    return found == used_.end() ? used_.begin() : found;
  }

  // Releases one slot or a neighbourhood, as programs free: otherwise nothing ever becomes wholly free.
  void release() {
    std::uint64_t count = random_() % 2 == 0 ? 1 : 1 + random_() % 100;
    for (auto slot = any_used(); slot != used_.end() && count != 0; --count) {
      table_.release(slot->first);
      if (--slot->second.count != 0) {
        ++slot;
        continue;
      }
      for (const auto& [hold, held] : holds_) {
        if (held.contains(slot->first)) retired_.insert(slot->first);
      }
      slot = used_.erase(slot);
    }
  }

  void reference() {
    const auto slot = any_used();
    if (slot == used_.end()) return;
    table_.reference(slot->first);
    ++slot->second.count;
  }

  void hold() {
    if (holds_.size() >= 4) return;
    const Result<SlotHold*> hold = table_.hold_used();
    ASSERT_TRUE(hold.ok());
    std::set<std::uint32_t>& held = holds_[hold.value];
    for (const auto& [slot, state] : used_) held.insert(slot);
    if (bad_ != kNone) held.insert(bad_);
  }

  void release_hold() {
    if (holds_.empty()) return;
    const auto hold = std::next(holds_.begin(), static_cast<std::ptrdiff_t>(random_() % holds_.size()));
    table_.release_hold(hold->first);
    holds_.erase(hold);
    std::erase_if(retired_, [&](std::uint32_t slot) {
      for (const auto& [other, held] : holds_) {
        if (held.contains(slot)) return false;
      }
      return true;
    });
  }

  void take_unused() {
    const SlotTable::Span span = table_.take_unused_section(static_cast<unsigned>(random_() % 8));
    for (std::uint32_t slot = span.first; slot < span.first + span.count; ++slot) {
      ASSERT_TRUE(is_free(slot)) << slot;
      written_.erase(slot);
    }
  }

  void supply() {
    table_.set_supply(table_.supply() == SlotTable::Supply::all ? SlotTable::Supply::rewritable
                                                                : SlotTable::Supply::all);
  }

  void check_hash() {
    const auto slot = any_used();
    if (slot == used_.end() || slot->second.hash == PageHash{}) return;
    ASSERT_EQ(table_.hash(slot->first), slot->second.hash);
  }

  void check() {
    table_.verify();
    ASSERT_EQ(table_.used(), used_.size());
    ASSERT_EQ(table_.bad(), bad_ == kNone ? 0U : 1U);
    ASSERT_EQ(table_.charged(), budget_.charged());
  }

  void finish() {
    for (const auto& [slot, state] : used_) {
      if (state.hash != PageHash{}) {
        ASSERT_EQ(table_.hash(slot), state.hash);
      }
      for (unsigned i = 0; i < state.count; ++i) table_.release(slot);
    }
    used_.clear();
    while (!holds_.empty()) release_hold();
    table_.set_supply(SlotTable::Supply::all);
    check();
    std::uint32_t taken = 0;
    for (auto span = table_.allocate(64); span.count != 0; span = table_.allocate(64)) taken += span.count;
    EXPECT_EQ(taken + table_.bad(), capacity_) << "a slot was lost";
    table_.verify();
    table_.destroy();
    EXPECT_EQ(budget_.charged(), PageCount{});
  }

  static constexpr std::uint32_t kNone = ~0U;

  std::mt19937_64 random_;
  const std::uint32_t capacity_;
  Budget budget_{Budget::kUnlimited};
  SlotTable table_;
  std::map<std::uint32_t, Slot> used_;
  std::map<SlotHold*, std::set<std::uint32_t>> holds_;
  std::set<std::uint32_t> retired_;
  std::set<std::uint32_t> written_;
  std::uint32_t bad_ = kNone;
  std::uint32_t peak_ = 0;
};

class SlotTableModel : public testing::TestWithParam<std::uint32_t> {};

TEST_P(SlotTableModel, RandomOperations) {
  std::uint32_t peak = 0;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    Model model(GetParam(), seed);
    model.run(6000);
    if (HasFatalFailure()) return;
    peak = std::max(peak, model.peak());
  }
  EXPECT_GT(peak, GetParam() / 4) << "the waves never filled the table";
}

INSTANTIATE_TEST_SUITE_P(Capacities, SlotTableModel, testing::Values(64U, 256U, 320U, 1024U, 4096U, 4160U));

}  // namespace
}  // namespace polder
