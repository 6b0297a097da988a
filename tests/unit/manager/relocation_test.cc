// Large runs, and spans that become such, growing at another address: by moving their pages where that works, else by
// copying, and never otherwise than with every byte.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cstring>

#include "os/mapping.h"
#include "unit/manager/manager_fixture.h"
#include "unit/os/child.h"

namespace polder {
namespace {

class RelocationTest : public ManagerFixture {
 protected:
  static constexpr std::size_t kSize = 3 * kMiB + 5 * kPageSize;  // its end is no block's

  void SetUp() override {
    ManagerFixture::SetUp();
    if (IsSkipped()) return;
    start(256 * kMiB);
    run_ = allocate(kSize);
    wall_ = allocate(kSize);  // in the way of growth
    fill();
  }
  void TearDown() override {
    if (manager_ != nullptr) {
      heap().free(cache_, run_);
      heap().free(cache_, wall_);
      heap().verify();
    }
    ManagerFixture::TearDown();
  }

  Heap& heap() { return manager_->heap(); }
  unsigned char* allocate(std::size_t size) { return static_cast<unsigned char*>(heap().allocate(cache_, size)); }
  static unsigned char byte_at(std::size_t at) { return static_cast<unsigned char>(at * 31 + (at >> 12)); }
  void fill() {
    for (std::size_t at = 0; at < kSize; ++at) run_[at] = byte_at(at);
  }
  bool is_filled() const {
    for (std::size_t at = 0; at < kSize; ++at) {
      if (run_[at] != byte_at(at)) return false;
    }
    return true;
  }
  // Whether it moved, with all that was in it.
  void grow() {
    unsigned char* const before = run_;
    run_ = static_cast<unsigned char*>(heap().reallocate(cache_, run_, 4 * kSize));
    ASSERT_NE(run_, nullptr);
    EXPECT_NE(run_, before);
    EXPECT_TRUE(is_filled());
    std::memset(run_ + kSize, 1, 3 * kSize);  // nothing waits for a fault there
    heap().verify();
  }
  std::uint64_t moved() const { return manager_->statistics().allocation.moved_pages.load(); }
  std::uint64_t charged() const { return manager_->statistics().allocation.charged_bytes.load(); }

  unsigned char* run_ = nullptr;
  unsigned char* wall_ = nullptr;
};

TEST_P(RelocationTest, PagesMove) {
  const std::uint64_t before = charged();
  grow();
  EXPECT_EQ(moved(), kSize / kPageSize);
  EXPECT_LE(charged(), before + 3 * kSize + kMiB);  // the old pages are not charged any more
}

TEST_P(RelocationTest, PagesThatWereNeverTouchedMoveAsHoles) {
  // The wall was not written to.
  unsigned char* const fence = allocate(kSize);
  wall_[0] = 7;
  auto* const grown = static_cast<unsigned char*>(heap().reallocate(cache_, wall_, 2 * kSize));
  ASSERT_NE(grown, nullptr);
  EXPECT_NE(grown, wall_);
  wall_ = grown;
  EXPECT_EQ(wall_[0], 7);
  for (std::size_t at = 1; at < 2 * kSize; ++at) ASSERT_EQ(wall_[at], 0);
  heap().free(cache_, fence);
}

TEST_P(RelocationTest, LockedPagesAreCopied) {
  ASSERT_EQ(syscall(SYS_mlock, run_ + kMiB, kPageSize), 0);  // sanitizers intercept mlock and do nothing
  unsigned char* const locked = run_ + kMiB;
  grow();
  EXPECT_LT(moved(), kSize / kPageSize);
  syscall(SYS_munlock, locked, kPageSize);
}

TEST_P(RelocationTest, PagesSharedWithAChildAreCopied) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  manager_->fork_prepare();
  const pid_t child = fork();
  if (child == 0) {
    // Sees its own copy when the parent has gone on.
    close(pipe_ends[1]);
    char ignored;
    [[maybe_unused]] const ssize_t end = read(pipe_ends[0], &ignored, 1);
    _exit(is_filled() ? 0 : 1);
  }
  manager_->fork_parent();
  grow();
  EXPECT_EQ(moved(), 0U);
  for (std::size_t at = 0; at < kSize; ++at) run_[at] = 0;
  close(pipe_ends[1]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  close(pipe_ends[0]);
  fill();
}

TEST_P(RelocationTest, WithoutADescriptorTheyAreCopied) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  grow();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(moved(), 0U);
}

TEST_P(RelocationTest, PagesOfManagedBlocksMoveToo) {
  // Most of what there is must be evicted for these.
  constexpr std::size_t kMuch = 60 * kMiB;
  unsigned char* much[5];
  for (unsigned char*& each : much) {
    each = allocate(kMuch);
    ASSERT_NE(each, nullptr);
    for (std::size_t at = 0; at < kMuch; at += kPageSize) each[at] = static_cast<unsigned char>(at >> 12) | 1;
  }
  grow();
  EXPECT_GT(moved(), 0U);
  for (unsigned char* const each : much) {
    for (std::size_t at = 0; at < kMuch; at += kPageSize) {
      ASSERT_EQ(each[at], static_cast<unsigned char>(at >> 12) | 1);
    }
    heap().free(cache_, each);
  }
}

// Pages of what was freed, in pieces that are too small, become those of a larger run.
TEST_P(RelocationTest, FreePagesMoveToWhereTheyAreOfUse) {
  constexpr unsigned kPieces = 8;
  unsigned char* pieces[kPieces];
  unsigned char* walls[kPieces];
  for (unsigned i = 0; i < kPieces; ++i) {
    pieces[i] = allocate(kMiB);
    walls[i] = allocate(kMiB);
    std::memset(pieces[i], 0xEE, kMiB);
    std::memset(walls[i], static_cast<int>(i), kMiB);
  }
  for (unsigned char* const piece : pieces) heap().free(cache_, piece);
  const std::uint64_t before = charged();
  constexpr std::size_t kLarge = 5 * kMiB + kPageSize;
  unsigned char* const large = allocate(kLarge);
  ASSERT_NE(large, nullptr);
  EXPECT_GE(moved(), 5 * kMiB / kPageSize);
  EXPECT_LE(charged(), before + 256 * kPageSize);
  std::memset(large, 0x11, kLarge);
  unsigned char* const zeroed = static_cast<unsigned char*>(heap().allocate_zeroed(cache_, 2 * kMiB));
  for (std::size_t at = 0; at < 2 * kMiB; ++at) ASSERT_EQ(zeroed[at], 0);
  for (unsigned i = 0; i < kPieces; ++i) {
    for (std::size_t at = 0; at < kMiB; ++at) ASSERT_EQ(walls[i][at], i);
    heap().free(cache_, walls[i]);
  }
  for (std::size_t at = 0; at < kLarge; ++at) ASSERT_EQ(large[at], 0x11);
  heap().verify();
  manager_->verify();
  heap().free(cache_, large);
  heap().free(cache_, zeroed);
  manager_->verify();
}

// Pages that the last owner never touched stay behind: what comes is there to be written to.
TEST_P(RelocationTest, OnlyFreePagesThatAreThereMove) {
  constexpr unsigned kPieces = 8;
  unsigned char* pieces[kPieces];
  unsigned char* walls[kPieces];
  for (unsigned i = 0; i < kPieces; ++i) {
    pieces[i] = allocate(kMiB);
    walls[i] = allocate(kMiB);
    if (i == kPieces - 1) continue;  // nothing of it is there; it is looked at first
    std::memset(pieces[i], 0xEE, kMiB / 2);
    pieces[i][kMiB - 1] = 0xEE;
  }
  for (unsigned char* const piece : pieces) heap().free(cache_, piece);
  constexpr std::size_t kLarge = 3 * kMiB + kPageSize;
  unsigned char* const large = allocate(kLarge);
  ASSERT_NE(large, nullptr);
  EXPECT_GE(moved(), 3 * kMiB / kPageSize);
  EXPECT_EQ(os::first_present(large, kLarge, 1).count, moved());
  std::memset(large, 0x11, kLarge);
  for (unsigned char* const wall : walls) heap().free(cache_, wall);
  for (std::size_t at = 0; at < kLarge; ++at) ASSERT_EQ(large[at], 0x11);
  heap().verify();
  manager_->verify();
  heap().free(cache_, large);
}

// What is taken for an aligned run, and not needed, goes back as dirty as the rest, although it lies where no page was
// ever described.
TEST_P(RelocationTest, WhatWasNeverProvidedIsNotLookedAt) {
  for (std::size_t alignment = 4 * kMiB; alignment <= 64 * kMiB; alignment *= 2) {
    unsigned char* const dirty = allocate(kMiB);
    std::memset(dirty, 0xEE, kMiB);
    heap().free(cache_, dirty);
    auto* const run = static_cast<unsigned char*>(heap().allocate_aligned(cache_, kMiB, alignment));
    ASSERT_NE(run, nullptr);
    std::memset(run, 0x11, kMiB);
    unsigned char* const more = allocate(5 * kMiB);
    std::memset(more, 0x22, 5 * kMiB);
    heap().free(cache_, run);
    heap().free(cache_, more);
    heap().verify();
    manager_->verify();
  }
}

// A span that becomes a large run moves where copying would fill what is untouched, or would touch new pages anyhow.
TEST_P(RelocationTest, SpansMoveUnlessTheirPagesAreThereAndDirtyOnesWait) {
  constexpr std::size_t kSpan = 512 * 1024;
  enum class Expected : unsigned char { moved, copied };
  const auto grow_span = [&](std::size_t step, bool dirty, Expected expected) {
    SCOPED_TRACE(testing::Message() << "a word each " << step << " bytes, dirty pages: " << dirty);
    heap().trim(cache_);
    unsigned char* span = allocate(kSpan);
    if (dirty) {
      unsigned char* const freed = allocate(kMiB);
      std::memset(freed, 0xEE, kMiB);
      heap().free(cache_, freed);
    }
    for (std::size_t at = 0; at < kSpan; at += step) span[at] = byte_at(at);
    const std::uint64_t before = moved();
    auto* const grown = static_cast<unsigned char*>(heap().reallocate(cache_, span, kMiB));
    ASSERT_NE(grown, nullptr);
    EXPECT_NE(grown, span);
    // Where it is copied to, the dirty pages may move.
    EXPECT_EQ(moved() - before == kSpan / kPageSize, expected == Expected::moved) << moved() - before;
    for (std::size_t at = 0; at < kSpan; at += step) ASSERT_EQ(grown[at], byte_at(at));
    std::memset(grown + kSpan, 1, kSpan);
    heap().verify();
    manager_->verify();
    heap().free(cache_, grown);
  };
  grow_span(1, false, Expected::moved);
  grow_span(1, true, Expected::copied);
  grow_span(8 * kPageSize, false, Expected::moved);
  grow_span(8 * kPageSize, true, Expected::moved);
}

// What a span left behind when it moved waits in quarantine like everything that was freed.
using HardenedRelocationTest = ManagerFixture;
TEST_P(HardenedRelocationTest, SpansMoveOutOfTheirGuards) {
  constexpr std::size_t kSpan = 512 * 1024;
  start(256 * kMiB, 512 * kMiB, 512 * kMiB, Hardening::on);
  Heap& heap = manager_->heap();
  for (unsigned round = 0; round < 20; ++round) {
    auto* const span = static_cast<unsigned char*>(heap.allocate(cache_, kSpan));
    ASSERT_NE(span, nullptr);
    for (std::size_t at = 0; at < kSpan; at += round + 1) span[at] = static_cast<unsigned char>(at * 31 + round);
    auto* const grown = static_cast<unsigned char*>(heap.reallocate(cache_, span, kMiB));
    ASSERT_NE(grown, nullptr);
    for (std::size_t at = 0; at < kSpan; at += round + 1) {
      ASSERT_EQ(grown[at], static_cast<unsigned char>(at * 31 + round)) << at;
    }
    std::memset(grown + kSpan, 1, kSpan);
    heap.free(cache_, grown);
    heap.verify();
    manager_->verify();
  }
  EXPECT_GT(manager_->statistics().allocation.moved_pages.load(), 0U);
  heap.trim(cache_);
  heap.verify();
  manager_->verify();
}

INSTANTIATE_TEST_SUITE_P(Backends, RelocationTest, on_both_backends(), backend_name);
INSTANTIATE_TEST_SUITE_P(Backends, HardenedRelocationTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder
