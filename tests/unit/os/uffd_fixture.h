// An open userfaultfd and two ranges of memory, one of them registered; skipped where the kernel gives none.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

#include "base/units.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/pagemap.h"
#include "os/userfaultfd.h"
#include "unit/os/child.h"

namespace polder::os {

using Wake = Userfaultfd::Wake;

inline constexpr std::size_t kPages = 64;
inline constexpr std::size_t kSize = kPages * kPageSize;

class UffdTest : public testing::Test {
 protected:
  void SetUp() override {
    const test::ErrnoWitness witness;
    const Errno error = uffd_.open();
    EXPECT_TRUE(witness.untouched());
    if (!error.ok()) GTEST_SKIP() << "userfaultfd: errno " << error.code();
    arena_ = map_fresh();
    other_ = map_fresh();
    ASSERT_EQ(uffd_.register_missing(arena_, kSize), kOk);
  }

  void TearDown() override {
    uffd_.close();
    if (arena_ != nullptr) release(arena_, kSize);
    if (other_ != nullptr) release(other_, kSize);
  }

  static char* map_fresh() {
    const Result<char*> memory = map_private(kSize);
    EXPECT_TRUE(memory.ok());
    advise_huge_pages(memory.value, kSize, HugePages::never);
    return memory.value;
  }

  static void fill(char* memory, std::size_t pages = kPages) {
    for (std::size_t page = 0; page < pages; ++page) std::memset(memory + page * kPageSize, mark(page), kPageSize);
  }
  static char mark(std::size_t page) { return static_cast<char>('A' + page % 26); }

  static std::uint64_t present(const char* memory) {
    Pagemap pagemap;
    std::uint64_t bits = 0;
    EXPECT_EQ(pagemap.open(), kOk);
    EXPECT_EQ(pagemap.scan_present(memory, kSize, &bits), kOk);
    return bits;
  }

  // The next fault, within a second.
  Fault await_fault() {
    Fault fault;
    const int fd = uffd_.fd();
    for (int tries = 0; tries < 1000; ++tries) {
      if (uffd_.read_faults(&fault, 1) == 1) return fault;
      poll_readable(&fd, 1, 1);
    }
    ADD_FAILURE() << "no fault arrived";
    return fault;
  }

  bool needs_move() const { return !uffd_.features().move; }

  Userfaultfd uffd_;
  char* arena_ = nullptr;  // registered
  char* other_ = nullptr;  // not
};

#define POLDER_NEEDS_MOVE() \
  if (needs_move()) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE that can be trusted"

}  // namespace polder::os
