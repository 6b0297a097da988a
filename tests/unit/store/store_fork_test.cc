// Real forks: children read their parents' pages whatever the parents do, and every descriptor and slot comes back.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <set>
#include <vector>

#include "os/file.h"
#include "unit/os/child.h"
#include "unit/store/scratch.h"

namespace polder {
namespace {

using test::holds_page;
using test::ScratchDirectory;
using test::store_page;

constexpr std::uint64_t kMiB = 1 << 20;

std::set<int> open_descriptors() {
  std::set<int> result;
  for (int fd = 0; fd < 512; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) result.insert(fd);
  }
  return result;
}

// Forks as the manager does: the child gets copies of the descriptors, and none of the originals.
template <typename Body>
pid_t fork_with(Store& store, Body body) {
  if (!store.hold_for_child().ok()) return -1;
  int fds[Store::kMaxInherited];
  const unsigned count = store.inherited_descriptors(fds);
  int copies[Store::kMaxInherited];
  for (unsigned i = 0; i < count; ++i) copies[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 200);
  std::fflush(nullptr);
  const pid_t child = test::fork_while_others_sleep();
  if (child != 0) {
    for (unsigned i = 0; i < count; ++i) ::close(copies[i]);
    store.end_fork(child > 0 ? Store::ForkOutcome::forked : Store::ForkOutcome::failed);
    return child;
  }
  for (const int fd : open_descriptors()) {
    // Pipes of the tests themselves lie between 100 and 199.
    if (fd > 2 && (fd < 100 || fd >= 200) && std::find(copies, copies + count, fd) == copies + count) ::close(fd);
  }
  store.become_child(copies, count);
  _exit(body());
}

int exit_status(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : test::kSignalled + WTERMSIG(status);
}

// Two processes taking turns.
class Turnstile {
 public:
  Turnstile() {
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    read_end_ = fcntl(ends[0], F_DUPFD_CLOEXEC, 100);
    write_end_ = fcntl(ends[1], F_DUPFD_CLOEXEC, 100);
    ::close(ends[0]);
    ::close(ends[1]);
  }
  ~Turnstile() {
    ::close(read_end_);
    ::close(write_end_);
  }
  void open() const {
    if (write(write_end_, "x", 1) != 1) std::abort();
  }
  bool pass() const {
    pollfd entry{read_end_, POLLIN, 0};
    char byte;
    return poll(&entry, 1, 20'000) == 1 && read(read_end_, &byte, 1) == 1;
  }

 private:
  int read_end_;
  int write_end_;
};

class StoreForkTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(store_.open({.swap_directory = directory_.path(), .swap_bytes = 2 * kMiB}).ok());
  }
  std::vector<Location> store_pages(std::uint64_t first, std::uint64_t count) {
    std::vector<Location> result;
    for (std::uint64_t i = 0; i < count; ++i) result.push_back(store_page(store_, first + i));
    return result;
  }

  ScratchDirectory directory_;
  Budget budget_{Budget::kUnlimited};
  Store store_{budget_};
};

TEST_F(StoreForkTest, NothingStoredNothingHeld) {
  const PageCount charged = budget_.charged();
  const pid_t child = fork_with(store_, [&] {
    CHILD_EXPECT(store_.is_open());
    const Location location = store_page(store_, 3);
    CHILD_EXPECT(holds_page(store_, location, 3));
    CHILD_EXPECT(location.file() == 0);
    return 0;
  });
  EXPECT_EQ(budget_.charged(), charged);
  EXPECT_EQ(store_.statistics().holds, 0U);
  EXPECT_EQ(exit_status(child), 0);
}

TEST_F(StoreForkTest, ChildReadsWhatTheParentGaveUp) {
  const Turnstile rewritten;
  std::vector<Location> pages = store_pages(0, 300);
  const pid_t child = fork_with(store_, [&] {
    if (!rewritten.pass()) return 1;
    store_.verify();
    CHILD_EXPECT(store_.statistics().used == 300);
    for (std::uint64_t i = 0; i < pages.size(); ++i) CHILD_EXPECT(holds_page(store_, pages[i], i));
    // The child's own pages go to a file of its own.
    for (std::uint64_t i = 0; i < 100; ++i) {
      const Location own = store_page(store_, 9000 + i);
      CHILD_EXPECT(own.file() == 1);
      CHILD_EXPECT(holds_page(store_, own, 9000 + i));
    }
    for (std::uint64_t i = 0; i < pages.size(); ++i) CHILD_EXPECT(holds_page(store_, pages[i], i));
    store_.verify();
    return 0;
  });
  ASSERT_GT(child, 0);
  for (const Location page : pages) store_.release(page);
  // As much as the file has room for beside what the child may read.
  std::uint64_t stored = 0;
  std::vector<Location> mine;
  while (true) {
    const Location location = store_page(store_, 5000 + stored);
    if (location.is_none()) break;
    mine.push_back(location);
    ++stored;
  }
  EXPECT_EQ(stored, 512U - 300U);
  rewritten.open();
  EXPECT_EQ(exit_status(child), 0);
  EXPECT_EQ(store_.release_finished_holds(), 1U);
  EXPECT_EQ(store_.statistics().holds, 0U);
  for (std::uint64_t i = 0; i < 300; ++i) ASSERT_FALSE(store_page(store_, 7000 + i).is_none());
  for (std::uint64_t i = 0; i < mine.size(); ++i) EXPECT_TRUE(holds_page(store_, mine[i], 5000 + i));
  store_.verify();
}

TEST_F(StoreForkTest, ChildThatLetsGoEndsTheHold) {
  const Turnstile seen;
  const Turnstile released;
  const Turnstile done;
  const std::vector<Location> pages = store_pages(0, 70);
  const auto pattern = store_.store_pattern(5);
  ASSERT_TRUE(pattern);
  const pid_t child = fork_with(store_, [&] {
    if (!seen.pass()) return 1;
    const std::set<int> before = open_descriptors();
    CHILD_EXPECT(store_.pattern(*pattern) == 5);
    for (const Location page : pages) store_.release(page);
    store_.close_unreferenced_files();
    CHILD_EXPECT(store_.statistics().files == 0);
    CHILD_EXPECT(store_.statistics().metadata == PageCount{});
    CHILD_EXPECT(open_descriptors().size() == before.size() - 2);
    // The index is free for a file of the child's own.
    CHILD_EXPECT(store_page(store_, 1).file() == 0);
    released.open();
    return done.pass() ? 0 : 1;
  });
  ASSERT_GT(child, 0);
  EXPECT_EQ(store_.release_finished_holds(), 0U);
  seen.open();
  ASSERT_TRUE(released.pass());
  EXPECT_EQ(store_.release_finished_holds(), 1U) << "the child lives, but has let go";
  store_.verify();
  done.open();
  EXPECT_EQ(exit_status(child), 0);
}

TEST_F(StoreForkTest, GrandchildOutlivesChild) {
  const Turnstile check;
  const Turnstile checked;
  std::vector<Location> pages = store_pages(0, 50);
  const pid_t child = fork_with(store_, [&] {
    const Location own = store_page(store_, 777);
    store_.release(pages[0]);
    const pid_t grandchild = fork_with(store_, [&] {
      if (!check.pass()) return 1;
      CHILD_EXPECT(store_.statistics().files == 2);
      for (std::uint64_t i = 1; i < pages.size(); ++i) CHILD_EXPECT(holds_page(store_, pages[i], i));
      CHILD_EXPECT(holds_page(store_, own, 777));
      const Location third = store_page(store_, 888);
      CHILD_EXPECT(third.file() == 2);
      CHILD_EXPECT(holds_page(store_, third, 888));
      store_.verify();
      checked.open();
      return 0;
    });
    return grandchild > 0 ? 0 : 1;
  });
  ASSERT_GT(child, 0);
  EXPECT_EQ(exit_status(child), 0);
  for (const Location page : pages) store_.release(page);
  EXPECT_EQ(store_.release_finished_holds(), 0U) << "the grandchild still reads";
  while (!store_page(store_, 1).is_none()) {
  }
  check.open();
  ASSERT_TRUE(checked.pass());
  unsigned released = 0;
  for (int i = 0; i < 2000 && released == 0; ++i) {
    released = store_.release_finished_holds();
    if (released == 0) usleep(10'000);
  }
  EXPECT_EQ(released, 1U);
  store_.verify();
}

TEST_F(StoreForkTest, ManyChildren) {
  const std::vector<Location> pages = store_pages(0, 100);
  std::vector<Location> left = pages;
  std::vector<pid_t> children;
  const Turnstile go;
  for (int i = 0; i < 20; ++i) {
    const std::vector<Location> visible = left;
    const pid_t child = fork_with(store_, [&] {
      if (!go.pass()) return 1;
      for (const Location page : visible) {
        CHILD_EXPECT(holds_page(
            store_, page, static_cast<std::uint64_t>(std::find(pages.begin(), pages.end(), page) - pages.begin())));
      }
      return 0;
    });
    ASSERT_GT(child, 0);
    children.push_back(child);
    for (int j = 0; j < 4; ++j) {
      store_.release(left.back());
      left.pop_back();
    }
  }
  EXPECT_EQ(store_.statistics().holds, 20U);
  std::vector<Location> rest;
  for (Location location = store_page(store_, 0); !location.is_none(); location = store_page(store_, 0)) {
    rest.push_back(location);
  }
  EXPECT_EQ(rest.size(), 412U);
  store_.verify();
  for (int i = 0; i < 20; ++i) go.open();
  for (const pid_t child : children) EXPECT_EQ(exit_status(child), 0);
  EXPECT_EQ(store_.release_finished_holds(), 20U);
  store_.verify();
  for (int i = 0; i < 80; ++i) EXPECT_FALSE(store_page(store_, 0).is_none());
  EXPECT_TRUE(store_page(store_, 0).is_none());
}

TEST_F(StoreForkTest, FullFileLooksForChildrenThatAreGone) {
  const SlotRun run = store_.allocate_slots(256);
  ASSERT_EQ(run.count + store_.allocate_slots(256).count, 512U);
  const pid_t child = fork_with(store_, [&] { return 0; });
  EXPECT_EQ(exit_status(child), 0);
  store_.release(run[100]);
  EXPECT_EQ(store_.allocate_slots(16).count, 1U);
  EXPECT_FALSE(store_.full());
  EXPECT_EQ(store_.statistics().holds, 0U);
}

TEST_F(StoreForkTest, FailedForkLeavesNothing) {
  const std::vector<Location> pages = store_pages(0, 10);
  const std::set<int> before = open_descriptors();
  const PageCount charged = budget_.charged();
  ASSERT_TRUE(store_.hold_for_child().ok());
  int fds[Store::kMaxInherited];
  EXPECT_EQ(store_.inherited_descriptors(fds), 3U);
  for (const Location page : pages) store_.release(page);
  store_.end_fork(Store::ForkOutcome::failed);
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(budget_.charged(), charged);
  EXPECT_EQ(store_.release_finished_holds(), 0U);
  store_.verify();
  EXPECT_EQ(store_.statistics().holds, 0U);
}

TEST_F(StoreForkTest, ChildRecountsFromItsPageWords) {
  const std::vector<Location> pages = store_pages(0, 20);
  const auto pattern = store_.store_pattern(1);
  ASSERT_TRUE(pattern);
  // Counts as another thread of the parent may leave them in the middle of its work.
  store_.reference(pages[4]);
  store_.reference(*pattern);
  const pid_t child = fork_with(store_, [&] {
    store_.begin_recount();
    for (const Location page : pages) store_.recount(page);
    store_.recount(*pattern);
    store_.verify();
    CHILD_EXPECT(store_.statistics().used == 20);
    CHILD_EXPECT(store_.statistics().same_filled == 1);
    for (std::uint64_t i = 0; i < pages.size(); ++i) CHILD_EXPECT(holds_page(store_, pages[i], i));
    for (const Location page : pages) store_.release(page);
    store_.release(*pattern);
    store_.close_unreferenced_files();
    CHILD_EXPECT(store_.statistics().files == 0);
    CHILD_EXPECT(store_.statistics().same_filled == 0);
    store_.verify();
    return 0;
  });
  EXPECT_EQ(exit_status(child), 0);
}

// Every generation stores a page of its own and keeps all inherited ones; there are indices for fifteen.
int generation(Store& store, std::vector<Location> inherited, unsigned depth) {
  for (std::uint64_t i = 0; i < inherited.size(); ++i) CHILD_EXPECT(holds_page(store, inherited[i], i));
  const Location own = store_page(store, inherited.size());
  if (depth == Location::kFileCount) {
    CHILD_EXPECT(own.is_none());
    CHILD_EXPECT(store.swap_error() == Errno(EMFILE));
    // Letting one inherited file go makes room.
    store.release(inherited[7]);
    store.retry_swap();
    CHILD_EXPECT(store_page(store, 99).file() == 7);
    return 0;
  }
  CHILD_EXPECT(own.file() == depth);
  inherited.push_back(own);
  return exit_status(fork_with(store, [&] { return generation(store, inherited, depth + 1); }));
}

TEST_F(StoreForkTest, FifteenGenerations) { EXPECT_EQ(generation(store_, {}, 0), 0); }

TEST(StoreFork, AStoreThatWasNeverOpen) {
  Budget budget(Budget::kUnlimited);
  Store store(budget);
  const pid_t child = fork_with(store, [&] { return store.is_open() ? 1 : 0; });
  EXPECT_EQ(exit_status(child), 0);
}

}  // namespace
}  // namespace polder
