#include "pager/courtesy.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

#include "os/thread.h"

namespace polder {
namespace {

class CourtesyTest : public testing::Test {
 protected:
  void SetUp() override {
    courtesy_.attach();
    courtesy_.be_polite();
    EXPECT_FALSE(courtesy_.polite()) << "nobody is on guard yet";
    guard_ = std::thread([this] { courtesy_.guard(); });
    // On duty soon, or never.
    bool permitted = false;
    std::thread([&permitted] { permitted = os::set_idle_class(0) && os::set_normal_class(0); }).join();
    if (!permitted) GTEST_SKIP() << "no permission to leave the idle class (CAP_SYS_NICE, RLIMIT_NICE)";
    become_polite();
  }
  void become_polite() {
    while (!courtesy_.polite()) {
      os::sleep_ms(1);
      courtesy_.round();
      courtesy_.be_polite();
    }
  }
  void TearDown() override {
    courtesy_.stop();
    guard_.join();
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
  }

  Courtesy courtesy_;
  std::thread guard_;
};

TEST_F(CourtesyTest, ChangesTheClassOfTheLoop) {
  courtesy_.round();
  courtesy_.be_polite();
  EXPECT_EQ(sched_getscheduler(0), courtesy_.polite() ? SCHED_IDLE : SCHED_OTHER);
  courtesy_.be_firm();
  EXPECT_FALSE(courtesy_.polite());
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
  courtesy_.be_firm();
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
}

TEST_F(CourtesyTest, ALoopThatRestsIsMadeFirmAndMayBePoliteAgain) {
  while (courtesy_.polite() || sched_getscheduler(0) != SCHED_OTHER) os::sleep_ms(1);
  become_polite();
}

TEST_F(CourtesyTest, ALoopThatStarvedIsNotPoliteForAWhile) {
  // The pause begins when the guard steps in, which is after the loop was last seen polite. A thread that did not run
  // for the whole pause has seen nothing of it: it starves once more.
  for (bool seen = false; !seen;) {
    std::uint64_t polite_at = 0;
    while (courtesy_.polite() || sched_getscheduler(0) != SCHED_OTHER) {  // runnable, and no round
      const std::uint64_t now = os::monotonic_ns();
      if (courtesy_.polite()) polite_at = now;
      os::relax_cpu();
    }
    courtesy_.be_polite();
    const bool polite = courtesy_.polite();
    seen = os::monotonic_ns() < polite_at + Courtesy::kShortestPauseNs;
    EXPECT_FALSE(seen && polite);
    become_polite();
  }
}

// The guard and the loop change the class at the same time: whoever comes last, firm means firm.
TEST_F(CourtesyTest, FirmIsFirmWhateverTheGuardDoes) {
  for (int i = 0; i < 300; ++i) {
    courtesy_.be_polite();
    if (i % 3 == 0) os::sleep_ms(Courtesy::kPatienceMs);
    courtesy_.be_firm();
    ASSERT_EQ(sched_getscheduler(0), SCHED_OTHER) << "round " << i;
    courtesy_.round();
  }
}

}  // namespace
}  // namespace polder
