// Children of a process whose memory is evicted: those whose making its manager knows of, and those of which it does not.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <random>
#include <type_traits>
#include <vector>

#include "os/mapping.h"
#include "unit/manager/manager_objects_fixture.h"
#include "unit/os/child.h"

namespace polder {
namespace {

class ForkTest : public ManagerObjectsFixture {};

TEST_P(ForkTest, AChildReadsWhatWasEvictedAndWritesItsOwn) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the thread sanitizer does not survive threads in forked children";
#endif
  start(16 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 40000; ++i) objects.push_back(make(1000, i));
  for (int round = 0; round < 3; ++round) {
    manager_->fork_prepare();
    const pid_t child = test::fork_while_others_sleep();
    if (child == 0) {
      manager_->fork_child(cache_);
      int wrong = 0;
      std::mt19937 random(static_cast<unsigned>(round));
      for (int i = 0; i < 3000; ++i) {
        Object& object = objects[random() % objects.size()];
        wrong += !holds(object);
        object.seed += 1000000;
        write(object);
      }
      for (const Object& object : objects) wrong += !holds(object);
      _exit(wrong == 0 ? 0 : 1);
    }
    manager_->fork_parent();
    for (std::size_t i = 0; i < objects.size(); i += 7) {
      objects[i].seed += 77;
      write(objects[i]);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    for (const Object& object : objects) ASSERT_TRUE(holds(object));
  }
  EXPECT_LE(resident(), 16 * kMiB);
}

// It would have no pager: a child made by vfork has none of its own to hand on.
TEST_P(ForkTest, AChildOfAChildThatSharesOurMemoryEndsRatherThanReadZeros) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the thread sanitizer does not survive a process that shares its memory";
#endif
  start(16 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 40; ++i) objects.push_back(make(kMiB, i));
  ASSERT_TRUE(manager_->pager().armed());
  using Self = std::remove_pointer_t<decltype(this)>;
  const auto borrower = [](void* fixture) {
    Self& self = *static_cast<Self*>(fixture);
    self.manager_->fork_prepare();
    const pid_t child = fork();
    if (child == 0) {
      self.manager_->fork_child(self.cache_);
      _exit(0);
    }
    self.manager_->fork_parent();
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  };
  std::vector<char> stack(std::size_t{256} << 10);
  const pid_t shares = clone(borrower, stack.data() + stack.size(), CLONE_VM | CLONE_VFORK | SIGCHLD, this);
  int status = 0;
  ASSERT_EQ(waitpid(shares, &status, 0), shares);
  EXPECT_EQ(WEXITSTATUS(status), SIGABRT);
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
}

// A child that is made past all handlers has no pager, and what was evicted would be zeros to it.
TEST_P(ForkTest, AChildThatNobodyWasToldOfHasNoMemoryThatCouldBeEvicted) {
  start(16 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 40; ++i) objects.push_back(make(kMiB, i));
  const auto expect_none = [&] {
    int withheld = 0;
    for (std::size_t i = 0; i < objects.size(); i += 3) {
      const Object& object = objects[i];
      const PageId page = manager_->arena().page_of(object.bytes);
      if (manager_->pager().blocks().mode(block_of(page)) != BlockMode::managed) continue;
      ++withheld;
      const int status = test::in_child([&object] {
        std::signal(SIGSEGV, SIG_DFL);  // the sanitizers have a handler
        return *static_cast<const volatile unsigned char*>(object.bytes + object.size / 2) == 0 ? 1 : 2;
      });
      EXPECT_EQ(status, test::kSignalled + SIGSEGV);
    }
    EXPECT_GT(withheld, 5);
  };
  expect_none();
  // Nor after a fork that went by the handlers, and one that the program spoke to the kernel about.
  manager_->fork_prepare();
  const pid_t child = test::fork_while_others_sleep();
  if (child == 0) _exit(0);
  manager_->fork_parent();
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  expect_none();
  ASSERT_TRUE(os::set_inheritance(manager_->arena().base(), manager_->arena().size(), os::Inheritance::copied).ok());
  manager_->withhold_evictable();
  expect_none();
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
}

INSTANTIATE_TEST_SUITE_P(Backends, ForkTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder
