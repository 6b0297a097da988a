// The store on real directories: its errors by name, its files, its behaviour when the disk is full.
#include "store/store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <vector>

#include "unit/os/child.h"
#include "unit/store/scratch.h"

namespace polder {
namespace {

using test::ScratchDirectory;

constexpr std::uint64_t kMiB = 1 << 20;

class StoreTest : public testing::Test {
 protected:
  Errno open(std::uint64_t size) { return store_.open({.swap_directory = directory_.path(), .swap_bytes = size}); }

  ScratchDirectory directory_;
  Budget budget_{Budget::kUnlimited};
  Store store_{budget_};
};

TEST_F(StoreTest, DirectoryErrorsAreNamed) {
  EXPECT_EQ(store_.open({.swap_directory = "/nonexistent/polder", .swap_bytes = kMiB}), Errno(ENOENT));
  EXPECT_EQ(store_.open({.swap_directory = "/proc/self/status", .swap_bytes = kMiB}), Errno(ENOTDIR));
  EXPECT_FALSE(store_.is_open());
  EXPECT_EQ(Store::probe("/nonexistent/polder").error, Errno(ENOENT));
  EXPECT_EQ(Store::probe("/proc/self/status").error, Errno(ENOTDIR));
  const Result<std::uint64_t> space = Store::probe(directory_.path());
  EXPECT_TRUE(space.ok());
  EXPECT_GT(space.value, 0U);
}

TEST_F(StoreTest, CreationErrorSticksUntilRetry) {
  EXPECT_CHILD_OK(test::in_child([&] {
    if (geteuid() == 0 && chown(directory_.path(), 65534, 65534) != 0) return test::kNotPossibleHere;
    if (!test::drop_privileges()) return test::kNotPossibleHere;
    CHILD_EXPECT(open(kMiB).ok());
    CHILD_EXPECT(chmod(directory_.path(), 0500) == 0);
    CHILD_EXPECT(Store::probe(directory_.path()).error == Errno(EACCES));
    CHILD_EXPECT(store_.allocate_slots(1).count == 0);
    CHILD_EXPECT(store_.swap_error() == Errno(EACCES));
    CHILD_EXPECT(store_.full());
    CHILD_EXPECT(chmod(directory_.path(), 0700) == 0);
    CHILD_EXPECT(store_.allocate_slots(1).count == 0);
    CHILD_EXPECT(store_.swap_error() == Errno(EACCES));
    store_.retry_swap();
    CHILD_EXPECT(!store_.full());
    CHILD_EXPECT(store_.allocate_slots(1).count == 1);
    CHILD_EXPECT(store_.swap_error().ok());
    return 0;
  }));
}

TEST_F(StoreTest, ReadOnlyDirectory) {
  EXPECT_CHILD_OK(test::in_child([&] {
    if (!test::mount_private_tmpfs(directory_.path(), "size=4M", MS_RDONLY)) return test::kNotPossibleHere;
    CHILD_EXPECT(open(kMiB).ok());
    CHILD_EXPECT(store_.allocate_slots(4).count == 0);
    CHILD_EXPECT(store_.swap_error() == Errno(EROFS));
    CHILD_EXPECT(Store::probe(directory_.path()).error == Errno(EROFS));
    return 0;
  }));
}

TEST_F(StoreTest, FullDirectory) {
  EXPECT_CHILD_OK(test::in_child([&] {
    if (!test::mount_private_tmpfs(directory_.path(), "size=64k")) return test::kNotPossibleHere;
    CHILD_EXPECT(open(0).ok());
    CHILD_EXPECT(store_.allocate_slots(4).count == 0);
    CHILD_EXPECT(store_.swap_error() == Errno(ENOSPC));
    return 0;
  }));
}

TEST_F(StoreTest, SizeFollowsFreeSpace) {
  EXPECT_CHILD_OK(test::in_child([&] {
    if (!test::mount_private_tmpfs(directory_.path(), "size=8M")) return test::kNotPossibleHere;
    CHILD_EXPECT(open(0).ok());
    CHILD_EXPECT(store_.allocate_slots(1).count == 1);
    const std::uint64_t capacity = store_.statistics().capacity * kPageSize;
    CHILD_EXPECT(capacity <= 8 * kMiB * 95 / 100 && capacity > 7 * kMiB);
    return 0;
  }));
}

TEST_F(StoreTest, SmallAddressSpaceStillGivesAFittedFile) {
  EXPECT_CHILD_OK(test::in_child([&] {
    if (!test::mount_private_tmpfs(directory_.path(), "size=512G")) return test::kNotPossibleHere;
    CHILD_EXPECT(open(0).ok());
    std::uint64_t mapped_pages = 0;
    CHILD_EXPECT(std::ifstream("/proc/self/statm") >> mapped_pages);
    const rlim_t room = mapped_pages * kPageSize + (std::uint64_t{1} << 30);
    const rlimit limit{room, room};
    CHILD_EXPECT(setrlimit(RLIMIT_AS, &limit) == 0);
    CHILD_EXPECT(store_.allocate_slots(1).count == 1);
    CHILD_EXPECT(store_.statistics().capacity > 1U << 20);
    return 0;
  }));
}

TEST_F(StoreTest, TooSmallASizeIsInvalid) {
  ASSERT_TRUE(open(4096).ok());
  EXPECT_EQ(store_.allocate_slots(1).count, 0U);
  EXPECT_EQ(store_.swap_error(), Errno(EINVAL));
}

TEST_F(StoreTest, MakesTheFileAtTheFirstWrite) {
  ASSERT_TRUE(open(kMiB).ok());
  EXPECT_EQ(store_.statistics().files, 0U);
  EXPECT_EQ(budget_.charged(), PageCount{});
  const SlotRun run = store_.allocate_slots(16);
  EXPECT_EQ(run.count, 16U);
  EXPECT_EQ(store_.statistics().files, 1U);
  EXPECT_EQ(store_.statistics().capacity, 256U);
  struct stat status {};
  ASSERT_EQ(fstat(store_.fd(run[0]), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
  EXPECT_EQ(status.st_nlink, 0U);
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
  EXPECT_EQ(store_.offset(run[3]), (run.first + 3) * kPageSize);
  EXPECT_EQ(store_.statistics().metadata, budget_.charged());
  store_.verify();
}

TEST_F(StoreTest, FullUntilASlotIsReleased) {
  ASSERT_TRUE(open(kMiB / 4).ok());
  const SlotRun run = store_.allocate_slots(64);
  ASSERT_EQ(run.count, 64U);
  EXPECT_FALSE(store_.full());
  EXPECT_EQ(store_.allocate_slots(1).count, 0U);
  EXPECT_EQ(store_.swap_error(), Errno(ENOSPC));
  EXPECT_TRUE(store_.full());
  EXPECT_EQ(store_.room(), 0U);
  store_.release(run[9]);
  EXPECT_EQ(store_.room(), 1U);  // known before anybody tries
  const SlotRun again = store_.allocate_slots(4);
  EXPECT_EQ(again.count, 1U);
  EXPECT_EQ(again[0], run[9]);
  EXPECT_FALSE(store_.full());
}

TEST_F(StoreTest, PatternsAndSlotsShareTheInterface) {
  ASSERT_TRUE(open(kMiB).ok());
  const auto pattern = store_.store_pattern(0xABCD);
  ASSERT_TRUE(pattern);
  EXPECT_EQ(Store::kind(*pattern), Store::Kind::pattern);
  EXPECT_EQ(store_.pattern(*pattern), 0xABCDU);
  const Location page = test::store_page(store_, 1);
  EXPECT_EQ(Store::kind(page), Store::Kind::swap);
  EXPECT_TRUE(test::holds_page(store_, page, 1));
  EXPECT_FALSE(test::holds_page(store_, page, 2));
  for (const Location location : {*pattern, page}) {
    store_.reference(location);
    store_.release(location);
    store_.release(location);
  }
  EXPECT_EQ(store_.statistics().used, 0U);
  EXPECT_EQ(store_.statistics().same_filled, 0U);
  store_.verify();
}

TEST_F(StoreTest, UnwrittenSlotsGoBack) {
  ASSERT_TRUE(open(kMiB).ok());
  const SlotRun run = store_.allocate_slots(32);
  store_.abandon(run[31]);
  store_.abandon(SlotRun{run.file, run.first, 31}, Errno(EINTR));
  EXPECT_EQ(store_.statistics().used, 0U);
  store_.verify();
}

TEST_F(StoreTest, BadSlotsAreAvoidedUntilRetry) {
  ASSERT_TRUE(open(kMiB / 4).ok());
  const SlotRun run = store_.allocate_slots(64);
  store_.abandon(SlotRun{run.file, 0, 8}, Errno(EIO));
  store_.abandon(SlotRun{run.file, 8, 56});
  EXPECT_EQ(store_.statistics().bad, 8U);
  unsigned taken = 0;
  for (SlotRun next = store_.allocate_slots(64); next.count != 0; next = store_.allocate_slots(64)) {
    EXPECT_GE(next.first, 8U);
    taken += next.count;
  }
  EXPECT_EQ(taken, 56U);
  store_.verify();
  store_.retry_swap();
  EXPECT_EQ(store_.allocate_slots(64).count, 8U);
  EXPECT_EQ(store_.statistics().bad, 0U);
  store_.verify();
}

// The disk fills up under a file that believed in more: what was written can be rewritten, nothing else is tried.
int fill_disk(Store& store, std::uint64_t expected_pages) {
  std::vector<Location> stored;
  while (true) {
    const Location location = test::store_page(store, stored.size());
    if (location.is_none()) break;
    stored.push_back(location);
  }
  CHILD_EXPECT(stored.size() >= expected_pages);
  CHILD_EXPECT(store.statistics().disk_full);
  CHILD_EXPECT(store.allocate_slots(64).count == 0);
  CHILD_EXPECT(store.full());
  for (std::size_t i = 0; i < stored.size(); i += 2) {
    CHILD_EXPECT(test::holds_page(store, stored[i], i));
    store.release(stored[i]);
  }
  CHILD_EXPECT(store.punch_free(100) == 0);
  for (std::size_t i = 0; i < stored.size(); i += 2) {
    const Location location = test::store_page(store, 1'000'000 + i);
    CHILD_EXPECT(!location.is_none());
    CHILD_EXPECT(test::holds_page(store, location, 1'000'000 + i));
  }
  CHILD_EXPECT(test::store_page(store, 0).is_none());
  for (std::size_t i = 1; i < stored.size(); i += 2) CHILD_EXPECT(test::holds_page(store, stored[i], i));
  store.verify();
  return 0;
}

TEST_F(StoreTest, DiskFullMeansRewriting) {
  EXPECT_CHILD_OK(test::in_child([&] {
    if (!test::mount_private_tmpfs(directory_.path(), "size=2M")) return test::kNotPossibleHere;
    CHILD_EXPECT(open(16 * kMiB).ok());
    return fill_disk(store_, 500);
  }));
}

TEST_F(StoreTest, FileSizeLimitMeansRewriting) {
  EXPECT_CHILD_OK(test::in_child([&] {
    const rlimit limit{kMiB, kMiB};
    CHILD_EXPECT(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHILD_EXPECT(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    CHILD_EXPECT(open(16 * kMiB).ok());
    return fill_disk(store_, 256);
  }));
}

TEST_F(StoreTest, PunchingGivesBlocksBack) {
  ASSERT_TRUE(open(8 * kMiB).ok());
  std::vector<Location> pages;
  for (std::uint64_t i = 0; i < 1024; ++i) pages.push_back(test::store_page(store_, i));
  const int fd = store_.fd(pages[0]);
  ASSERT_EQ(fsync(fd), 0);
  struct stat before {};
  ASSERT_EQ(fstat(fd, &before), 0);
  EXPECT_EQ(store_.punch_free(8), 0U);
  for (std::uint64_t i = 256; i < 768; ++i) store_.release(pages[i]);
  EXPECT_EQ(store_.punch_free(1), 1U);
  EXPECT_EQ(store_.punch_free(8), 1U);
  EXPECT_EQ(store_.punch_free(8), 0U);
  store_.verify();
  struct stat after {};
  ASSERT_EQ(fstat(fd, &after), 0);
  EXPECT_EQ(before.st_size, after.st_size);
  // A hole may cost the filesystem a block of its own bookkeeping.
  constexpr off_t kBookkeeping = 64 << 10;
  EXPECT_LE(after.st_blocks * 512, before.st_blocks * 512 - static_cast<off_t>(2 * kMiB) + kBookkeeping);
  for (std::uint64_t i = 0; i < 1024; ++i) {
    if (i < 256 || i >= 768) {
      EXPECT_TRUE(test::holds_page(store_, pages[i], i)) << i;
    }
  }
  for (std::uint64_t i = 0; i < 512; ++i) {
    const Location location = test::store_page(store_, 5000 + i);
    ASSERT_FALSE(location.is_none());
    EXPECT_TRUE(test::holds_page(store_, location, 5000 + i));
  }
  store_.verify();
}

TEST(StoreLifetime, GivesEverythingBack) {
  const ScratchDirectory directory;
  Budget budget(Budget::kUnlimited);
  {
    Store store(budget);
    ASSERT_TRUE(store.open({.swap_directory = directory.path(), .swap_bytes = kMiB}).ok());
    ASSERT_TRUE(store.store_pattern(0));
    ASSERT_FALSE(test::store_page(store, 1).is_none());
    ASSERT_TRUE(store.hold_for_child().ok());
    store.end_fork(Store::ForkOutcome::forked);
  }
  EXPECT_EQ(budget.charged(), PageCount{});
}

}  // namespace
}  // namespace polder
