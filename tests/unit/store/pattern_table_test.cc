#include "store/pattern_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "base/units.h"
#include "os/thread.h"
#include "vm/budget.h"

namespace polder {
namespace {

struct alignas(kPageSize) Page {
  std::uint64_t words[kPageSize / 8];
};

TEST(SameFilled, FindsTheWord) {
  Page page;
  for (const std::uint64_t word : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{0x0123456789ABCDEF}}) {
    std::fill(std::begin(page.words), std::end(page.words), word);
    EXPECT_EQ(same_filled(&page), word);
  }
}

TEST(SameFilled, EveryWordCounts) {
  Page page;
  std::fill(std::begin(page.words), std::end(page.words), 7U);
  for (std::uint64_t& word : page.words) {
    word ^= std::uint64_t{1} << 63;
    EXPECT_FALSE(same_filled(&page).has_value());
    word ^= std::uint64_t{1} << 63;
  }
  EXPECT_EQ(same_filled(&page), 7U);
}

TEST(PatternTable, SharesEntriesAndCountsReferences) {
  Budget budget(Budget::kUnlimited);
  PatternTable table(budget);
  EXPECT_EQ(budget.charged(), PageCount{});
  const auto zero = table.add(0);
  const auto other = table.add(42);
  ASSERT_TRUE(zero && other);
  EXPECT_NE(*zero, *other);
  EXPECT_EQ(table.add(0), zero);
  EXPECT_EQ(table.word(*zero), 0U);
  EXPECT_EQ(table.word(*other), 42U);
  table.reference(*other);
  EXPECT_EQ(table.statistics().words, 2U);
  EXPECT_EQ(table.statistics().references, 4U);
  table.release(*other);
  table.release(*other);
  EXPECT_EQ(table.statistics().words, 1U);
  table.verify();
  EXPECT_GT(budget.charged(), PageCount{});
}

TEST(PatternTable, GivesItsMemoryBack) {
  Budget budget(Budget::kUnlimited);
  {
    PatternTable table(budget);
    ASSERT_TRUE(table.add(1));
  }
  EXPECT_EQ(budget.charged(), PageCount{});
}

TEST(PatternTable, FullUntilAnEntryIsReleased) {
  Budget budget(Budget::kUnlimited);
  PatternTable table(budget);
  std::vector<std::uint32_t> entries;
  for (std::uint64_t i = 0; i < PatternTable::kCapacity; ++i) {
    const auto entry = table.add(i << 32);
    ASSERT_TRUE(entry);
    entries.push_back(*entry);
  }
  EXPECT_FALSE(table.add(1));
  EXPECT_TRUE(table.add(5ULL << 32)) << "a known word needs no new entry";
  table.release(entries[5]);
  EXPECT_FALSE(table.add(1)) << "one reference is left";
  table.release(entries[5]);
  EXPECT_EQ(table.add(1), entries[5]);
  EXPECT_FALSE(table.add(5ULL << 32));
  table.verify();
  for (std::uint64_t i = 0; i < PatternTable::kCapacity; ++i) EXPECT_EQ(table.word(entries[i]), i == 5 ? 1 : i << 32);
}

TEST(PatternTable, MatchesAModel) {
  Budget budget(Budget::kUnlimited);
  PatternTable table(budget);
  std::mt19937_64 random(3);
  std::map<std::uint64_t, std::uint64_t> model;  // word → references
  std::vector<std::pair<std::uint64_t, std::uint32_t>> references;
  for (int step = 0; step < 200'000; ++step) {
    // Phases of growth and shrinkage, so that the table is full now and then.
    const bool growing = step / 20'000 % 2 == 0;
    const std::uint64_t choice = random() % 10;
    if (choice < (growing ? 6U : 3U)) {
      const std::uint64_t word = random() % 6000 * 0x100000001;
      const auto entry = table.add(word);
      ASSERT_EQ(entry.has_value(), model.contains(word) || model.size() < PatternTable::kCapacity);
      if (!entry) continue;
      ++model[word];
      references.emplace_back(word, *entry);
    } else if (choice == 6 && !references.empty()) {
      const auto [word, entry] = references[random() % references.size()];
      table.reference(entry);
      ++model[word];
      references.emplace_back(word, entry);
    } else if (choice > 6 && !references.empty()) {
      std::swap(references[random() % references.size()], references.back());
      const auto [word, entry] = references.back();
      references.pop_back();
      ASSERT_EQ(table.word(entry), word);
      table.release(entry);
      if (--model[word] == 0) model.erase(word);
    }
    if (step % 1000 == 0) {
      table.verify();
      ASSERT_EQ(table.statistics().words, model.size());
      ASSERT_EQ(table.statistics().references, references.size());
    }
  }
}

TEST(PatternTable, RecountsInAChild) {
  Budget budget(Budget::kUnlimited);
  PatternTable table(budget);
  const auto zero = table.add(0);
  const auto one = table.add(1);
  ASSERT_TRUE(zero && one);
  table.clear_counts();
  table.recount(*one);
  table.recount(*one);
  EXPECT_EQ(table.statistics().references, 2U);
  table.release(*one);
  table.release(*one);
  EXPECT_EQ(table.add(0), zero);
  table.verify();
}

TEST(PatternTable, ReleasesRaceWithAdditions) {
  Budget budget(Budget::kUnlimited);
  PatternTable table(budget);
  constexpr unsigned kThreads = 3;
  constexpr unsigned kMail = 64;
  std::atomic<std::uint64_t> mail[kThreads][kMail] = {};  // word << 16 | entry + 1
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      bool last_round = false;
      while (!last_round) {
        last_round = stop.load();
        for (auto& letter : mail[t]) {
          const std::uint64_t content = letter.exchange(0, std::memory_order_acquire);
          if (content == 0) continue;
          const auto entry = static_cast<std::uint32_t>((content & 0xFFFF) - 1);
          EXPECT_EQ(table.word(entry), content >> 16);
          table.release(entry);
        }
      }
    });
  }
  std::mt19937_64 random(4);
  for (int i = 0; i < 100'000; ++i) {
    auto& letter = mail[random() % kThreads][random() % kMail];
    if (letter.load(std::memory_order_relaxed) != 0) continue;
    const std::uint64_t word = random() % 20'000;
    const auto entry = table.add(word);
    ASSERT_TRUE(entry);
    letter.store(word << 16 | (*entry + 1), std::memory_order_release);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(table.statistics().references, 0U);
  table.verify();
}

TEST(PatternTableDeath, UnderflowIsCaught) {
  Budget budget(Budget::kUnlimited);
  PatternTable table(budget);
  const auto entry = table.add(9);
  ASSERT_TRUE(entry);
  table.release(*entry);
  os::install_message_sink();
  EXPECT_DEATH(table.release(*entry), "released more often than referenced");
  EXPECT_DEATH(table.reference(*entry), "reference to a pattern that has none");
}

}  // namespace
}  // namespace polder
