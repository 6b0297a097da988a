// One thread allocates, takes and drops holds; others check and release what it published. Every access to a slot's
// contents is plain, so that ThreadSanitizer sees whether a slot's reuse happens after its last release.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "store/slot_table.h"
#include "vm/budget.h"

namespace polder {
namespace {

constexpr std::uint32_t kSlots = 1024;
constexpr unsigned kThreads = 3;
constexpr unsigned kMail = 128;

struct Shared {
  Budget budget{Budget::kUnlimited};
  SlotTable table;
  std::atomic<std::uint32_t> mail[kThreads][kMail] = {};  // slot + 1
  std::atomic<bool> stop{false};
  std::uint64_t contents[kSlots] = {};  // plain on purpose

  // Hands a reference to some thread, or releases it where the letter box is full.
  void publish(std::uint32_t slot, std::uint64_t choice) {
    auto& letter = mail[choice % kThreads][choice / kThreads % kMail];
    std::uint32_t empty = 0;
    if (!letter.compare_exchange_strong(empty, slot + 1, std::memory_order_release)) table.release(slot);
  }
};

void release_mail(Shared& shared, unsigned thread) {
  bool last_round = false;
  while (!last_round) {
    last_round = shared.stop.load();
    for (auto& letter : shared.mail[thread]) {
      const std::uint32_t content = letter.exchange(0, std::memory_order_acquire);
      if (content == 0) continue;
      const std::uint32_t slot = content - 1;
      ASSERT_EQ(shared.table.hash(slot).low, shared.contents[slot]);
      ASSERT_EQ(shared.table.hash(slot).high, slot);
      if (content % 3 == 0) {
        shared.table.reference(slot);
        shared.table.release(slot);
      }
      shared.table.release(slot);
    }
  }
}

TEST(SlotTableRace, ReleasesAgainstAllocation) {
  Shared shared;
  ASSERT_TRUE(shared.table.create(kSlots, shared.budget).ok());
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) threads.emplace_back(release_mail, std::ref(shared), t);

  std::mt19937_64 random(7);
  std::uint64_t allocated = 0;
  std::vector<SlotHold*> holds;
  for (int i = 0; i < 40'000; ++i) {
    const SlotTable::Span span = shared.table.allocate(static_cast<std::uint32_t>(1 + random() % 40));
    allocated += span.count;
    for (std::uint32_t slot = span.first; slot < span.first + span.count; ++slot) {
      shared.contents[slot] = random();
      shared.table.set_hash(slot, {shared.contents[slot], slot});
      // Every other slot has two readers, so that the one who frees it is not the only one who read it.
      if (random() % 2 == 0) {
        shared.table.reference(slot);
        shared.publish(slot, random());
      }
      shared.publish(slot, random());
    }
    if (random() % 64 == 0 && holds.size() < 3) holds.push_back(shared.table.hold_used().value);
    if (random() % 48 == 0 && !holds.empty()) {
      std::swap(holds[random() % holds.size()], holds.back());
      shared.table.release_hold(holds.back());
      holds.pop_back();
    }
    if (random() % 32 == 0) shared.table.take_unused_section(8);
  }
  shared.stop = true;
  for (std::thread& thread : threads) thread.join();
  for (SlotHold* hold : holds) shared.table.release_hold(hold);
  EXPECT_EQ(shared.table.used(), 0U);
  shared.table.verify();
  EXPECT_GT(allocated, 40'000U);
  std::uint32_t free = 0;
  for (auto span = shared.table.allocate(64); span.count != 0; span = shared.table.allocate(64)) free += span.count;
  EXPECT_EQ(free, kSlots) << "a slot was lost";
  shared.table.verify();
}

// One cluster that becomes full, empty and whole all the time: the hints and the bitmap change under each other, and so
// do held and retired bits.
TEST(SlotTableRace, OneCluster) {
  Shared shared;
  ASSERT_TRUE(shared.table.create(SlotTable::kClusterSlots, shared.budget).ok());
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) threads.emplace_back(release_mail, std::ref(shared), t);
  std::mt19937_64 random(9);
  SlotHold* hold = nullptr;
  for (int i = 0; i < 90'000; ++i) {
    const SlotTable::Span span = shared.table.allocate(static_cast<std::uint32_t>(1 + random() % 64));
    for (std::uint32_t slot = span.first; slot < span.first + span.count; ++slot) {
      shared.contents[slot] = random();
      shared.table.set_hash(slot, {shared.contents[slot], slot});
      shared.publish(slot, random());
    }
    if (i % 8 == 0 && i / 30'000 == 1) hold = shared.table.hold_used().value;
    if (i % 8 == 3 && hold != nullptr) {
      shared.table.release_hold(hold);
      hold = nullptr;
    }
  }
  shared.stop = true;
  for (std::thread& thread : threads) thread.join();
  if (hold != nullptr) shared.table.release_hold(hold);
  EXPECT_EQ(shared.table.used(), 0U);
  shared.table.verify();
  std::uint32_t free = 0;
  for (auto span = shared.table.allocate(64); span.count != 0; span = shared.table.allocate(64)) free += span.count;
  EXPECT_EQ(free, SlotTable::kClusterSlots) << "a slot was lost";
  shared.table.verify();
}

// A slot that was certainly in use when the hold was taken is never handed out while the hold lasts, whoever releases it
// and whenever.
TEST(SlotTableRace, HoldsOutlastReleases) {
  Shared shared;
  ASSERT_TRUE(shared.table.create(kSlots, shared.budget).ok());
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) threads.emplace_back(release_mail, std::ref(shared), t);
  std::mt19937_64 random(8);
  for (int round = 0; round < 2'000; ++round) {
    const SlotTable::Span kept = shared.table.allocate(16);
    const auto publish = [&](SlotTable::Span span) {
      for (std::uint32_t slot = span.first; slot < span.first + span.count; ++slot) shared.publish(slot, random());
    };
    const auto fill = [&](SlotTable::Span span) {
      for (std::uint32_t slot = span.first; slot < span.first + span.count; ++slot) {
        shared.contents[slot] = random();
        shared.table.set_hash(slot, {shared.contents[slot], slot});
      }
    };
    fill(kept);
    SlotHold* const hold = shared.table.hold_used().value;
    publish(kept);
    for (int i = 0; i < 20; ++i) {
      const SlotTable::Span other = shared.table.allocate(32);
      ASSERT_TRUE(other.count == 0 || other.first + other.count <= kept.first ||
                  other.first >= kept.first + kept.count);
      fill(other);
      publish(other);
    }
    shared.table.release_hold(hold);
  }
  shared.stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(shared.table.used(), 0U);
  shared.table.verify();
  std::uint32_t free = 0;
  for (auto span = shared.table.allocate(64); span.count != 0; span = shared.table.allocate(64)) free += span.count;
  EXPECT_EQ(free, kSlots) << "a slot was lost";
  shared.table.verify();
}

}  // namespace
}  // namespace polder
