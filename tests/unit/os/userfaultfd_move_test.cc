// UFFDIO_MOVE: what it moves, where it stops, and that no byte is lost whoever else is at the pages.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <liburing.h>

#include "os/thread.h"
#include "unit/os/child.h"
#include "unit/os/uffd_fixture.h"

namespace polder::os {
namespace {

TEST_F(UffdTest, MoveTransfersPages) {
  POLDER_NEEDS_MOVE();
  fill(other_);
  const test::ErrnoWitness witness;
  const Progress progress = uffd_.move(arena_, other_, kSize, Wake::yes);
  EXPECT_TRUE(witness.untouched());
  EXPECT_EQ(progress.done, kSize);
  EXPECT_EQ(progress.error, kOk);
  EXPECT_EQ(present(other_), 0u);
  EXPECT_EQ(present(arena_), ~std::uint64_t{0});
  for (std::size_t page = 0; page < kPages; ++page) {
    EXPECT_EQ(arena_[page * kPageSize], mark(page));
    EXPECT_EQ(arena_[page * kPageSize + kPageSize - 1], mark(page));
  }
}

TEST_F(UffdTest, MoveLeavesHolesWhereTheyWere) {
  POLDER_NEEDS_MOVE();
  for (const std::size_t page : {0u, 3u, 4u, 9u, 63u}) other_[page * kPageSize] = mark(page);
  const std::uint64_t before = present(other_);
  ASSERT_EQ(before, 1u << 0 | 1u << 3 | 1u << 4 | 1u << 9 | std::uint64_t{1} << 63);
  const Progress progress = uffd_.move(arena_, other_, kSize, Wake::no);
  EXPECT_EQ(progress.done, kSize);
  EXPECT_EQ(progress.error, kOk);
  EXPECT_EQ(present(arena_), before);
  EXPECT_EQ(present(other_), 0u);
}

TEST_F(UffdTest, MoveOfNothingIsWhole) {
  POLDER_NEEDS_MOVE();
  const Progress progress = uffd_.move(arena_, other_, kSize, Wake::no);
  EXPECT_EQ(progress.done, kSize);
  EXPECT_EQ(progress.error, kOk);
  EXPECT_EQ(present(arena_), 0u);
}

TEST_F(UffdTest, MoveBetweenRegisteredRangesLeavesFaults) {
  POLDER_NEEDS_MOVE();
  ASSERT_EQ(uffd_.register_missing(other_, kSize), kOk);
  char* const source = map_fresh();
  fill(source);
  ASSERT_EQ(uffd_.copy(other_, source, kSize, Wake::no).error, kOk);
  ASSERT_EQ(uffd_.move(arena_, other_, kSize, Wake::no).error, kOk);
  std::thread toucher([&] { EXPECT_EQ(other_[7 * kPageSize], mark(7)); });
  EXPECT_EQ(await_fault().address, reinterpret_cast<std::uintptr_t>(other_ + 7 * kPageSize));
  ASSERT_EQ(uffd_.move(other_ + 7 * kPageSize, arena_ + 7 * kPageSize, kPageSize, Wake::yes).error, kOk);
  toucher.join();
  release(source, kSize);
}

TEST_F(UffdTest, MoveStopsAtAnOccupiedDestination) {
  POLDER_NEEDS_MOVE();
  fill(other_);
  ASSERT_EQ(uffd_.copy(arena_ + 6 * kPageSize, other_ + 30 * kPageSize, kPageSize, Wake::no).error, kOk);
  const test::ErrnoWitness witness;
  const Progress progress = uffd_.move(arena_, other_, kSize, Wake::yes);
  EXPECT_TRUE(witness.untouched());
  EXPECT_EQ(progress.done, 6 * kPageSize);
  EXPECT_EQ(progress.error, Errno(EEXIST));
  EXPECT_EQ(arena_[6 * kPageSize], mark(30));
  EXPECT_EQ(other_[6 * kPageSize], mark(6));
}

TEST_F(UffdTest, MoveStopsAtAPageSharedWithAChild) {
  POLDER_NEEDS_MOVE();
  fill(other_);
  Result<Pipe> pipe = make_pipe();
  ASSERT_TRUE(pipe.ok());
  const pid_t child = fork();
  if (child == 0) {
    // Lives until the parent closes its end, then tells what it still reads.
    close(pipe.value.write_end);
    while (!peer_closed(pipe.value.read_end)) poll_readable(&pipe.value.read_end, 1, 1000);
    bool right = true;
    for (std::size_t page = 0; page < kPages; ++page) right = right && other_[page * kPageSize + 9] == mark(page);
    _exit(right ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  // Written again after the fork: these pages are the parent's alone.
  for (std::size_t page = 0; page < 4; ++page) other_[page * kPageSize] = mark(page);
  Progress progress = uffd_.move(arena_, other_, kSize, Wake::no);
  EXPECT_EQ(progress.done, 4 * kPageSize);
  EXPECT_EQ(progress.error, Errno(EBUSY));

  // Populating breaks the sharing although the child lives.
  ASSERT_EQ(populate_writable(other_ + 4 * kPageSize, 8 * kPageSize), kOk);
  progress = uffd_.move(arena_ + 4 * kPageSize, other_ + 4 * kPageSize, kSize - 4 * kPageSize, Wake::no);
  EXPECT_EQ(progress.done, 8 * kPageSize);
  EXPECT_EQ(progress.error, Errno(EBUSY));

  close(pipe.value.write_end);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "the child's pages changed";
  // Not even its end makes the rest exclusive again; a write of the same byte does.
  progress = uffd_.move(arena_ + 12 * kPageSize, other_ + 12 * kPageSize, kSize - 12 * kPageSize, Wake::no);
  EXPECT_EQ(progress.done, 0u);
  EXPECT_EQ(progress.error, Errno(EBUSY));
  ASSERT_EQ(populate_writable(other_ + 12 * kPageSize, kSize - 12 * kPageSize), kOk);
  progress = uffd_.move(arena_ + 12 * kPageSize, other_ + 12 * kPageSize, kSize - 12 * kPageSize, Wake::no);
  EXPECT_EQ(progress.error, kOk);
  for (std::size_t page = 0; page < kPages; ++page) EXPECT_EQ(arena_[page * kPageSize + 1], mark(page));
  close(pipe.value.read_end);
}

TEST_F(UffdTest, MoveStopsAtAPinnedPage) {
  POLDER_NEEDS_MOVE();
  fill(other_);
  io_uring ring;
  if (io_uring_queue_init(2, &ring, 0) != 0) GTEST_SKIP() << "no io_uring to pin a page with";
  const iovec buffer{other_ + 5 * kPageSize, kPageSize};
  if (io_uring_register_buffers(&ring, &buffer, 1) != 0) {
    io_uring_queue_exit(&ring);
    GTEST_SKIP() << "buffers cannot be registered";
  }
  Progress progress = uffd_.move(arena_, other_, kSize, Wake::no);
  EXPECT_EQ(progress.done, 5 * kPageSize);
  EXPECT_EQ(progress.error, Errno(EBUSY));
  io_uring_unregister_buffers(&ring);
  io_uring_queue_exit(&ring);
  progress = uffd_.move(arena_ + 5 * kPageSize, other_ + 5 * kPageSize, kSize - 5 * kPageSize, Wake::no);
  EXPECT_EQ(progress.error, kOk);
}

TEST_F(UffdTest, MoveRefusesLockedMemoryAndForeignDestinations) {
  POLDER_NEEDS_MOVE();
  fill(other_);
  char* const unregistered = map_fresh();
  EXPECT_EQ(uffd_.move(unregistered, other_, kPageSize, Wake::no).error, Errno(EINVAL));
  release(unregistered, kSize);
  if (syscall(SYS_mlock, other_, kSize) != 0) GTEST_SKIP() << "mlock refused";
  const test::ErrnoWitness witness;
  const Progress progress = uffd_.move(arena_, other_, kSize, Wake::no);
  EXPECT_EQ(progress.done, 0u);
  EXPECT_EQ(progress.error, Errno(EINVAL));
  EXPECT_TRUE(witness.untouched());
  syscall(SYS_munlock, other_, kSize);
}

TEST_F(UffdTest, MoveWhileOthersWriteNeverLosesAByte) {
  POLDER_NEEDS_MOVE();
  // A writer counts up in every page while its pages travel between two registered ranges and back.
  constexpr std::size_t kUsed = 8;
  ASSERT_EQ(uffd_.register_missing(other_, kSize), kOk);
  char* const zeros = map_fresh();
  ASSERT_EQ(uffd_.copy(arena_, zeros, kUsed * kPageSize, Wake::no).error, kOk);
  std::atomic<bool> stop{false};
  std::atomic<bool> stopped{false};
  std::vector<std::uint64_t> expected(kUsed);
  std::thread writer([&] {
    for (std::size_t page = 0; !stop.load(std::memory_order_relaxed); page = (page + 1) % kUsed) {
      auto* const counter = reinterpret_cast<volatile std::uint64_t*>(arena_ + page * kPageSize);
      const std::uint64_t value = *counter;
      *counter = value + 1;
      ++expected[page];
    }
    stopped = true;
  });
  const int fd = uffd_.fd();
  const std::uint64_t end = monotonic_ns() + 200000000;
  while (monotonic_ns() < end || !stopped.load()) {
    if (monotonic_ns() >= end) stop = true;
    const Progress out = uffd_.move(other_, arena_, kUsed * kPageSize, Wake::no);
    ASSERT_EQ(out.error, kOk);
    Fault faults[4];
    poll_readable(&fd, 1, 1);
    uffd_.read_faults(faults, 4);
    const Progress back = uffd_.move(arena_, other_, kUsed * kPageSize, Wake::yes);
    ASSERT_EQ(back.error, kOk);
    uffd_.wake(arena_, kSize);
  }
  writer.join();
  for (std::size_t page = 0; page < kUsed; ++page) {
    EXPECT_EQ(*reinterpret_cast<std::uint64_t*>(arena_ + page * kPageSize), expected[page]);
  }
  release(zeros, kSize);
}

enum class Descriptors { available, none_left };

// Moves memory there and back under `mover` while the kernel compacts. Linux 6.18 moves pages then and reports EEXIST for
// them: they must not be taken for somebody else's.
void move_while_memory_is_compacted(Userfaultfd& mover, Descriptors descriptors) {
  constexpr std::size_t kRange = std::size_t{4096} * kPageSize;
  constexpr std::size_t kStep = 16 * kPageSize;
  const int compact = ::open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
  if (compact < 0) GTEST_SKIP() << "memory cannot be compacted on demand here";
  Pagemap pagemap;
  ASSERT_EQ(pagemap.open(), kOk);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  for (int repetition = 0; repetition < 10; ++repetition) {
    char* const here = map_private(kRange).value;
    char* const there = map_private(kRange).value;
    advise_huge_pages(here, kRange, HugePages::always);
    advise_huge_pages(there, kRange, HugePages::never);
    for (std::size_t at = 0; at < kRange; at += kPageSize) *reinterpret_cast<std::uint64_t*>(here + at) = at + 1;
    for (char* const range : {here, there}) ASSERT_EQ(mover.register_missing(range, kRange), kOk);
    std::atomic<bool> stop{false};
    std::thread compactor([&] {
      while (!stop) EXPECT_EQ(::write(compact, "1", 1), 1);
    });
    const auto move_all = [&](char* to, char* from) {
      for (std::size_t at = 0; at < kRange;) {
        const Progress progress = mover.move(to + at, from + at, kStep - at % kStep, Wake::no);
        at += progress.done;
        EXPECT_TRUE(progress.error.ok() || progress.error == Errno(EBUSY)) << progress.error.code();
        if (progress.error != kOk && progress.error != Errno(EBUSY)) break;
      }
    };
    rlimit tight = limit;
    if (descriptors == Descriptors::none_left) tight.rlim_cur = 0;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
    for (int round = 0; round < 20; ++round) {
      move_all(there, here);
      move_all(here, there);
    }
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    stop = true;
    compactor.join();
    std::uint64_t bits[kRange / kPageSize / 64] = {};
    ASSERT_EQ(pagemap.scan_present(here, kRange, bits), kOk);
    for (std::size_t page = 0; page < kRange / kPageSize; ++page) {
      ASSERT_NE(bits[page / 64] >> (page % 64) & 1, 0U) << "page " << page;
      EXPECT_EQ(*reinterpret_cast<std::uint64_t*>(here + page * kPageSize), page * kPageSize + 1);
    }
    release(here, kRange);
    release(there, kRange);
  }
  ::close(compact);
}

TEST_F(UffdTest, MoveWhileMemoryIsCompactedNeverLosesAByte) {
  POLDER_NEEDS_MOVE();
  move_while_memory_is_compacted(uffd_, Descriptors::available);
}

// It opens the pagemap when it needs it.
TEST_F(UffdTest, MovesAloneWhileMemoryIsCompactedNeverLoseAByte) {
  POLDER_NEEDS_MOVE();
  Userfaultfd mover;
  ASSERT_EQ(mover.open_for_moves(), kOk);
  move_while_memory_is_compacted(mover, Descriptors::available);
}

TEST_F(UffdTest, MovesAloneNeedNoPagemap) {
  POLDER_NEEDS_MOVE();
  Userfaultfd mover;
  ASSERT_EQ(mover.open_for_moves(), kOk);
  move_while_memory_is_compacted(mover, Descriptors::none_left);
}

}  // namespace
}  // namespace polder::os
