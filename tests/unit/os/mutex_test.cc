#include "os/mutex.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "os/thread.h"
#include "unit/os/child.h"

namespace polder::os {
namespace {

struct Counter {
  Mutex mutex{LockRank::test};
  std::uint64_t value POLDER_GUARDED_BY(mutex) = 0;
};

TEST(Mutex, ExcludesFourThreads) {
  constexpr unsigned kThreads = 4;
  constexpr unsigned kRounds = 50000;
  Counter counter;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (unsigned round = 0; round < kRounds; ++round) {
        const MutexLock lock(counter.mutex);
        ++counter.value;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const MutexLock lock(counter.mutex);
  EXPECT_EQ(counter.value, kThreads * kRounds);
}

TEST(Mutex, TryLockNeverWaits) {
  Counter counter;
  counter.mutex.lock();
  std::thread([&] {
    const bool taken = counter.mutex.try_lock();
    EXPECT_FALSE(taken);
    if (taken) counter.mutex.unlock();
  }).join();
  counter.mutex.unlock();
  const bool taken = counter.mutex.try_lock();
  EXPECT_TRUE(taken);
  if (taken) {
    ++counter.value;
    counter.mutex.unlock();
  }
}

TEST(Mutex, HandsOverToEverySleeper) {
  constexpr unsigned kThreads = 6;
  Counter counter;
  std::atomic<unsigned> started{0};
  std::vector<std::thread> threads;
  counter.mutex.lock();
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      started.fetch_add(1);
      const test::ErrnoWitness witness;
      const MutexLock lock(counter.mutex);
      ++counter.value;
      EXPECT_TRUE(witness.untouched());
    });
  }
  while (started.load() != kThreads) std::this_thread::yield();
  sleep_ms(30);  // long enough for all to be asleep
  EXPECT_EQ(counter.value, 0u);
  counter.mutex.unlock();
  for (std::thread& thread : threads) thread.join();
  const MutexLock lock(counter.mutex);
  EXPECT_EQ(counter.value, kThreads);
}

TEST(Mutex, IsFreeAgainInAForkedChild) {
  Counter counter;
  counter.mutex.lock();
  std::thread waiter([&] { const MutexLock lock(counter.mutex); });
  sleep_ms(20);  // the state says "waited for" when the child gets it
  const int status = test::in_child([&]() POLDER_NO_THREAD_SAFETY_ANALYSIS {
    counter.mutex.reset_in_child();
    CHILD_EXPECT(counter.mutex.try_lock());
    counter.mutex.unlock();
    counter.mutex.lock();
    counter.mutex.unlock();
    return 0;
  });
  counter.mutex.unlock();
  waiter.join();
  EXPECT_EQ(status, 0);
}

TEST(Futex, WaitEndsAtTheTimeout) {
  std::atomic<std::uint32_t> word{7};
  const test::ErrnoWitness witness;
  const std::uint64_t before = monotonic_ns();
  futex_wait(word, 7, 20);
  EXPECT_GE(monotonic_ns() - before, 19000000u);
  EXPECT_TRUE(witness.untouched());
}

TEST(Futex, WaitReturnsAtOnceWhenTheWordDiffers) {
  std::atomic<std::uint32_t> word{7};
  const test::ErrnoWitness witness;
  futex_wait(word, 8, -1);
  EXPECT_TRUE(witness.untouched());
}

TEST(Futex, WakeAllReachesEverybody) {
  std::atomic<std::uint32_t> word{0};
  std::atomic<unsigned> woken{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (word.load() == 0) futex_wait(word, 0, -1);
      woken.fetch_add(1);
    });
  }
  sleep_ms(20);
  word.store(1);
  futex_wake_all(word);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(woken.load(), 3u);
}

TEST(Futex, WakeOneReachesOne) {
  std::atomic<std::uint32_t> word{0};
  std::atomic<unsigned> woken{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      futex_wait(word, 0, 2000);
      woken.fetch_add(1);
    });
  }
  sleep_ms(30);
  futex_wake_one(word);
  while (woken.load() == 0) sleep_ms(1);
  sleep_ms(20);
  EXPECT_EQ(woken.load(), 1u);
  futex_wake_one(word);
  for (std::thread& thread : threads) thread.join();
}

#if !defined(NDEBUG) || defined(POLDER_VERIFY_BUILD)

class MutexOrder : public testing::Test {
 protected:
  void SetUp() override {
    install_message_sink();
    GTEST_FLAG_SET(death_test_style, "threadsafe");
  }

  Mutex low_{LockRank::central};
  Mutex high_{LockRank::buddy};
  Mutex low_sibling_{LockRank::central};
};

TEST_F(MutexOrder, AscendingRanksAreAllowed) {
  low_.lock();
  high_.lock();
  low_.unlock();
  high_.unlock();
  low_.lock();
  low_.unlock();
}

// Locks whose death the analysis does not foresee.
void take(Mutex& mutex) POLDER_NO_THREAD_SAFETY_ANALYSIS { mutex.lock(); }
void take_same_rank(Mutex& mutex) POLDER_NO_THREAD_SAFETY_ANALYSIS { mutex.lock_same_rank(); }
void give_back(Mutex& mutex) POLDER_NO_THREAD_SAFETY_ANALYSIS { mutex.unlock(); }

TEST_F(MutexOrder, DescendingRanksAbort) { EXPECT_DEATH((take(high_), take(low_)), "lock taken out of rank order"); }

TEST_F(MutexOrder, EqualRanksAbort) { EXPECT_DEATH((take(low_), take(low_sibling_)), "lock taken out of rank order"); }

TEST_F(MutexOrder, EqualRanksAreAllowedForFork) {
  low_.lock();
  low_sibling_.lock_same_rank();
  low_.unlock();
  // One of the rank is still held, so the order is still checked.
  EXPECT_DEATH(take(low_), "lock taken out of rank order");
  low_sibling_.unlock();
  low_.lock();
  low_.unlock();
}

TEST_F(MutexOrder, ForkStillRefusesDescendingRanks) {
  EXPECT_DEATH((take(high_), take_same_rank(low_)), "lock taken out of rank order");
}

TEST_F(MutexOrder, UnlockOfAForeignLockAborts) { EXPECT_DEATH(give_back(low_), "does not hold it"); }

#endif

}  // namespace
}  // namespace polder::os
