// Threads that wait for pages whose reads fail: each gets the right bytes or SIGBUS, and none waits for ever.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <random>
#include <thread>
#include <vector>

#include "unit/manager/read_faults_fixture.h"

namespace polder {
namespace {

// As when realloc moves the page's copy to another page: there is no read that would wake whoever else touches it.
TEST_P(ReadFaultsTest, AFaultOnAPageThatIsBeingMovedIsTriedAgain) {
  prepare(72 * kMiB, 24 * kMiB);
  make_room();
  auto& table = const_cast<PageTable&>(manager_->pager().table());
  const PageId page = manager_->arena().page_of(victims_.page(0));
  const PageWord stored = table.load(page);
  ASSERT_EQ(stored.state(), PageState::stored);
  PageWord word = stored;
  const PageWord moving = stored.with_state(PageState::filling).with_source(PageState::stored);
  ASSERT_TRUE(table.transition(page, word, moving));
  const std::uint64_t faults = manager_->statistics().pager.faults.load();
  std::atomic<Seen> seen{Seen::wrong};
  std::thread toucher([&] { seen = victims_.look(0); });
  while (manager_->statistics().pager.faults.load() == faults) std::this_thread::yield();
  word = moving;
  ASSERT_TRUE(table.transition(page, word, stored));
  toucher.join();
  EXPECT_EQ(seen, Seen::right);
}

// The page's bytes come back as soon as the first attempt has failed; the next one waits a millisecond for them.
TEST_P(ReadFaultsTest, AReadThatFailsAtFirstEndsRightOrInSigbus) {
  prepare(72 * kMiB, 24 * kMiB);
  make_room();
  std::atomic<std::size_t> asked{SIZE_MAX};  // the page to touch
  std::atomic<std::size_t> answers{0};
  std::atomic<Seen> answer{Seen::wrong};
  std::thread toucher([&] {
    for (std::size_t seen = SIZE_MAX;;) {
      asked.wait(seen);
      seen = asked.load();
      if (seen == SIZE_MAX - 1) return;
      answer = victims_.look(seen);
      ++answers;
      answers.notify_one();
    }
  });
  std::size_t right = 0;
  std::size_t recovered = 0;
  std::size_t rounds = 0;
  for (const Target& target : targets()) {
    // Backwards, so that nothing behind it in the file matters any more. From a folio's second fault on others come with it,
    // and some are read ahead.
    for (std::size_t i = kPagesPerFolio; i-- != 0;) {
      if (!is_stored(victims_, target.page + i)) continue;
      const Slots slot = swap_.save(target.offset + i * kPageSize, target.offset + (i + 1) * kPageSize);
      const std::uint64_t errors = read_errors();
      const std::size_t before = answers;
      swap_.cut(slot.offset());
      asked = target.page + i;
      asked.notify_one();
      while (read_errors() == errors && answers == before) {
      }
      swap_.restore(slot);
      answers.wait(before);
      ASSERT_NE(answer.load(), Seen::wrong);
      ++rounds;
      right += answer.load() == Seen::right;
      recovered += answer.load() == Seen::right && read_errors() > errors;
      ASSERT_EQ(victims_.look(target.page + i), answer.load());
    }
  }
  asked = SIZE_MAX - 1;
  asked.notify_one();
  toucher.join();
  RecordProperty("rounds", std::to_string(rounds));
  RecordProperty("recovered", std::to_string(recovered));
  EXPECT_EQ(right, recovered);
  EXPECT_GT(recovered, rounds / 2);
  EXPECT_GT(rounds, 500U);
  expect_nothing_written();
}

// Windows of several pages fail and recover while threads wait for each of their pages.
TEST_P(ReadFaultsTest, WhoeverWaitsForAPageOfAFailedWindowIsWoken) {
  prepare(12 * kMiB, 20 * kMiB);
  constexpr unsigned kThreads = 4;
  const std::vector<Target> folios = targets();
  ASSERT_GT(folios.size(), 100U);
  std::barrier round_begins(kThreads + 1);
  std::barrier round_ends(kThreads + 1);
  std::atomic<std::size_t> first{SIZE_MAX};
  std::atomic<std::size_t> wrong{0};
  std::atomic<std::size_t> lost{0};
  std::atomic<std::size_t> right{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (;;) {
        round_begins.arrive_and_wait();
        if (first == SIZE_MAX) return;
        // One walks through the folio, which makes windows; the others come for what is ahead of it.
        const std::size_t start = t == 0 ? 0 : random() % kPagesPerFolio;
        for (std::size_t i = 0; i < kPagesPerFolio; ++i) {
          const Seen seen = victims_.look(first + (start + i) % kPagesPerFolio);
          wrong += seen == Seen::wrong;
          lost += seen == Seen::bus;
          right += seen == Seen::right;
        }
        round_ends.arrive_and_wait();
      }
    });
  }
  const std::uint64_t errors = read_errors();
  std::mt19937 random(99);
  std::size_t rounds = 0;
  for (const Target& target : folios) {
    if (!is_stored(target)) continue;
    const Slots slots = swap_.save(target.offset, target.offset + kFolioSize);
    swap_.cut(target.offset + random() % kPagesPerFolio * kPageSize);
    first = target.page;
    const std::uint64_t errors_before = read_errors();
    round_begins.arrive_and_wait();
    const std::uint64_t patience = random() % 4;
    for (std::uint64_t spins = 0; spins < 100000 && read_errors() <= errors_before + patience; ++spins) {
    }
    swap_.restore(slots, kPageSize << random() % 5);
    round_ends.arrive_and_wait();
    ++rounds;
    ASSERT_EQ(wrong, 0U);
    for (std::size_t i = 0; i < kPagesPerFolio; ++i) {
      const Seen once = victims_.look(target.page + i);
      ASSERT_NE(once, Seen::wrong);
      ASSERT_EQ(victims_.look(target.page + i), once);
    }
  }
  first = SIZE_MAX;
  round_begins.arrive_and_wait();
  for (std::thread& thread : threads) thread.join();
  RecordProperty("rounds", std::to_string(rounds));
  RecordProperty("lost", std::to_string(lost));
  EXPECT_GT(rounds, 50U);
  EXPECT_GT(right, 0U);
  EXPECT_GT(read_errors(), errors);
  expect_nothing_written();
}

// The walk through one folio reads the next one ahead, whose read fails in part; meanwhile others ask for its pages.
TEST_P(ReadFaultsTest, AReadAheadThatFailsWakesWhoeverCameForItsPages) {
  prepare(12 * kMiB, 20 * kMiB);
  make_room();
  constexpr unsigned kThreads = 3;
  constexpr std::size_t kRead = kPagesPerFolio / 2 - 1;  // of the next folio
  std::barrier round_begins(kThreads + 1);
  std::barrier round_ends(kThreads + 1);
  std::atomic<bool> stopping{false};
  std::atomic<bool> walked{false};
  std::atomic<std::size_t> waited{0};
  std::size_t asked[kThreads] = {};
  Seen seen[kThreads] = {};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (;;) {
        round_begins.arrive_and_wait();
        if (stopping) return;
        while (word_of(victims_, asked[t]).state() != PageState::filling && !walked) {
        }
        waited += word_of(victims_, asked[t]).state() == PageState::filling;
        seen[t] = victims_.look(asked[t]);
        round_ends.arrive_and_wait();
      }
    });
  }
  std::mt19937 random(5);
  std::size_t rounds = 0;
  for (const Target& next : targets()) {
    if (next.page < kPagesPerFolio) continue;
    const Target walk{next.page - kPagesPerFolio, next.offset - kFolioSize};
    if (!is_stored(next) || !is_stored(walk) || offset_of(victims_, walk.page) != walk.offset) continue;
    const std::size_t readable = 1 + random() % (kRead - 1);
    for (std::size_t& page : asked) page = next.page + random() % kRead;
    asked[0] = next.page + random() % readable;
    walked = false;
    const Slots slots = swap_.save(next.offset, next.offset + kFolioSize);
    swap_.cut(next.offset + readable * kPageSize);
    round_begins.arrive_and_wait();
    for (const std::size_t i : {7U, 8U, 9U, 11U, 15U}) ASSERT_EQ(victims_.look(walk.page + i), Seen::right);
    walked = true;
    round_ends.arrive_and_wait();
    for (unsigned t = 0; t < kThreads; ++t) {
      ASSERT_EQ(seen[t], asked[t] < next.page + readable ? Seen::right : Seen::bus) << "in round " << rounds;
    }
    swap_.restore(slots);
    ++rounds;
  }
  stopping = true;
  round_begins.arrive_and_wait();
  for (std::thread& thread : threads) thread.join();
  RecordProperty("rounds", std::to_string(rounds));
  RecordProperty("waited", std::to_string(waited));
  EXPECT_GT(rounds, 50U);
  EXPECT_GT(waited, 0U);
  expect_nothing_written();
}

INSTANTIATE_TEST_SUITE_P(Backends, ReadFaultsTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder
