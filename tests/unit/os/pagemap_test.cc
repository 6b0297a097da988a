#include "os/pagemap.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <vector>

#include "base/units.h"
#include "os/mapping.h"
#include "unit/os/child.h"

namespace polder::os {
namespace {

bool bit(const std::vector<std::uint64_t>& bits, std::size_t index) {
  return (bits[index / 64] >> (index % 64) & 1) != 0;
}

// Touches the pages that `chosen` names and compares what a scan finds.
template <typename Predicate>
void check_pattern(std::size_t pages, Predicate chosen) {
  const Result<char*> memory = map_private(pages * kPageSize);
  ASSERT_TRUE(memory.ok());
  advise_huge_pages(memory.value, pages * kPageSize, HugePages::never);
  for (std::size_t page = 0; page < pages; ++page) {
    if (chosen(page)) memory.value[page * kPageSize] = 1;
  }
  Pagemap pagemap;
  ASSERT_EQ(pagemap.open(), kOk);
  std::vector<std::uint64_t> present((pages + 63) / 64, ~std::uint64_t{0});
  const test::ErrnoWitness witness;
  ASSERT_EQ(pagemap.scan_present(memory.value, pages * kPageSize, present.data()), kOk);
  EXPECT_TRUE(witness.untouched());
  for (std::size_t page = 0; page < pages; ++page) ASSERT_EQ(bit(present, page), chosen(page)) << page;
  // A part of it, at an odd start.
  if (pages > 80) {
    ASSERT_EQ(pagemap.scan_present(memory.value + 7 * kPageSize, 65 * kPageSize, present.data()), kOk);
    for (std::size_t page = 0; page < 65; ++page) ASSERT_EQ(bit(present, page), chosen(page + 7)) << page;
  }
  release(memory.value, pages * kPageSize);
}

void check_patterns() {
  check_pattern(1, [](std::size_t) { return true; });
  check_pattern(1, [](std::size_t) { return false; });
  check_pattern(64, [](std::size_t) { return true; });
  check_pattern(1000, [](std::size_t page) { return page % 2 == 0; });  // more regions than one call returns
  check_pattern(1000, [](std::size_t page) { return page % 100 < 77; });
  check_pattern(1000, [](std::size_t page) { return page == 999; });
}

TEST(Pagemap, FindsWhatIsPresent) { check_patterns(); }

TEST(Pagemap, ReadsTheFileWhereTheScanIsMissing) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_ioctl, ENOTTY)) return test::kNotPossibleHere;
    check_patterns();
    return testing::Test::HasFailure() ? 1 : 0;
  }));
}

TEST(Pagemap, HugePagesArePresentAsAWhole) {
  const Result<char*> memory = reserve(2 * kBlockSize, kBlockSize);
  ASSERT_TRUE(memory.ok());
  ASSERT_EQ(commit(memory.value, 2 * kBlockSize), kOk);
  advise_huge_pages(memory.value, 2 * kBlockSize, HugePages::always);
  memory.value[kBlockSize] = 1;
  Pagemap pagemap;
  ASSERT_EQ(pagemap.open(), kOk);
  std::vector<std::uint64_t> present(2 * kPagesPerBlock / 64);
  ASSERT_EQ(pagemap.scan_present(memory.value, 2 * kBlockSize, present.data()), kOk);
  EXPECT_FALSE(bit(present, 0));
  EXPECT_TRUE(bit(present, kPagesPerBlock));
  const bool huge = bit(present, kPagesPerBlock + 1);
  for (std::size_t page = 1; page < kPagesPerBlock; ++page) ASSERT_EQ(bit(present, kPagesPerBlock + page), huge);
  release(memory.value, 2 * kBlockSize);
}

TEST(Pagemap, HugeEmptyRangesAreQuick) {
  constexpr std::size_t kSize = std::size_t{64} << 30;
  const Result<char*> range = reserve(kSize, kPageSize);
  ASSERT_TRUE(range.ok());
  ASSERT_EQ(commit(range.value, kSize), kOk);
  range.value[kSize / 2] = 1;
  Pagemap pagemap;
  ASSERT_EQ(pagemap.open(), kOk);
  std::vector<std::uint64_t> present(kSize / kPageSize / 64);
  ASSERT_EQ(pagemap.scan_present(range.value, kSize, present.data()), kOk);
  std::size_t count = 0;
  for (const std::uint64_t word : present) count += static_cast<std::size_t>(__builtin_popcountll(word));
  EXPECT_GE(count, 1u);
  EXPECT_LE(count, kPagesPerBlock);
  release(range.value, kSize);
}

TEST(Pagemap, UnmappedRangesAreAbsent) {
  const Result<char*> memory = map_private(3 * kPageSize);
  ASSERT_TRUE(memory.ok());
  memory.value[0] = memory.value[2 * kPageSize] = 1;
  release(memory.value + kPageSize, kPageSize);
  Pagemap pagemap;
  ASSERT_EQ(pagemap.open(), kOk);
  std::uint64_t present = 0;
  ASSERT_EQ(pagemap.scan_present(memory.value, 3 * kPageSize, &present), kOk);
  EXPECT_EQ(present, 5u);
  EXPECT_EQ(pagemap.presence(memory.value), Presence::present);
  EXPECT_EQ(pagemap.presence(memory.value + kPageSize), Presence::absent);
  release(memory.value, kPageSize);
  release(memory.value + 2 * kPageSize, kPageSize);
}

TEST(Pagemap, ReportsAClosedDescriptor) {
  Pagemap pagemap;
  std::uint64_t present = 0;
  const test::ErrnoWitness witness;
  EXPECT_EQ(pagemap.scan_present(reinterpret_cast<void*>(kPageSize), kPageSize, &present), Errno(EBADF));
  EXPECT_EQ(pagemap.presence(reinterpret_cast<void*>(kPageSize)), Presence::unknown);
  EXPECT_TRUE(witness.untouched());
}

}  // namespace
}  // namespace polder::os
