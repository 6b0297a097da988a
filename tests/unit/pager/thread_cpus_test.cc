#include "pager/thread_cpus.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "unit/vm/metadata_fixture.h"
#include "vm/budget.h"

namespace polder {
namespace {

class ThreadCpusTest : public testing::Test {
 protected:
  static constexpr std::size_t kSize = std::size_t{8} << 20;

  // The CPU of a thread that is known; -1 of others.
  int cpu_of(std::uint32_t thread) {
    std::uint32_t cpu = 0;
    return cpus_.cpu_of(thread, &cpu) ? static_cast<int>(cpu) : -1;
  }

  Reservation reservation_{kSize};
  Budget budget_{Budget::kUnlimited};
  MetadataPool pool_{reservation_.base(), kSize, budget_};
  ThreadCpus cpus_{pool_};
};

TEST_F(ThreadCpusTest, ReadsTheWordThatAThreadAnnounced) {
  std::uint32_t word = 3;
  EXPECT_EQ(cpu_of(100), -1);
  cpus_.note(100, &word);
  EXPECT_EQ(cpu_of(100), 3);
  word = 1;
  EXPECT_EQ(cpu_of(100), 1);
  EXPECT_EQ(cpu_of(101), -1);
  cpus_.forget(&word);
  EXPECT_EQ(cpu_of(100), -1);
}

TEST_F(ThreadCpusTest, KnowsTheLastWordOfAThreadWhoseIdComesAgain) {
  std::uint32_t first = 1;
  std::uint32_t second = 2;
  cpus_.note(100, &first);
  cpus_.note(100, &second);
  EXPECT_EQ(cpu_of(100), 2);
  cpus_.forget(&first);
  EXPECT_EQ(cpu_of(100), 2);
  cpus_.forget(&second);
  EXPECT_EQ(cpu_of(100), -1);
}

TEST_F(ThreadCpusTest, GrowsWithThreadsAndNotWithTheirNumberOverTime) {
  std::vector<std::uint32_t> words(1000);
  for (std::uint32_t i = 0; i < words.size(); ++i) {
    words[i] = i;
    cpus_.note(i + 1, &words[i]);
  }
  for (std::uint32_t i = 0; i < words.size(); ++i) EXPECT_EQ(cpu_of(i + 1), static_cast<int>(i));
  const PageCount charged = budget_.charged();
  for (std::uint32_t i = 0; i < words.size(); ++i) cpus_.forget(&words[i]);
  for (std::uint32_t thread = 2000; thread < 200'000; ++thread) {
    cpus_.note(thread, &words[7]);
    cpus_.forget(&words[7]);
  }
  EXPECT_EQ(budget_.charged(), charged);
}

TEST_F(ThreadCpusTest, FollowsThreadsThatComeAndGoTogether) {
  std::vector<std::uint32_t> words(8);
  std::vector<std::thread> threads;
  for (std::uint32_t own = 0; own < words.size(); ++own) {
    words[own] = own;
    threads.emplace_back([this, own, &words] {
      for (std::uint32_t round = 1; round <= 2000; ++round) {
        const std::uint32_t id = round * 8 + own;
        cpus_.note(id, &words[own]);
        EXPECT_EQ(cpu_of(id), static_cast<int>(own));
        cpus_.forget(&words[own]);
        EXPECT_EQ(cpu_of(id), -1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ThreadCpusTest, ForgetsAllInAChild) {
  std::vector<std::uint32_t> words(40, 5);
  for (std::uint32_t i = 0; i < words.size(); ++i) cpus_.note(i + 1, &words[i]);
  cpus_.reset_in_child();
  for (std::uint32_t i = 0; i < words.size(); ++i) EXPECT_EQ(cpu_of(i + 1), -1);
  cpus_.note(1, &words[0]);
  EXPECT_EQ(cpu_of(1), 5);
}

}  // namespace
}  // namespace polder
