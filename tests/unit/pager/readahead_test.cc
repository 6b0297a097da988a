#include "pager/readahead.h"

#include <gtest/gtest.h>

namespace polder {
namespace {

// Of the fault that comes after `faults` others of its stream.
std::uint32_t expected_window(std::uint32_t faults) {
  if (faults + 1 < Readahead::kTrusted) return 1;
  return std::min(2U << (faults + 1 - Readahead::kTrusted), Readahead::kMaxWindow);
}

TEST(Readahead, ASequentialStreamDoublesItsWindowOnceItIsTrusted) {
  Readahead readahead;
  PageId page{100};
  for (std::uint32_t i = 0; i < 12; ++i) {
    const std::uint32_t window = readahead.window(page);
    EXPECT_EQ(window, expected_window(i));
    page = page + PageCount{window};
    readahead.advance(page);
  }
}

TEST(Readahead, ScatteredFaultsReadOnePage) {
  Readahead readahead;
  for (std::uint32_t i = 0; i < 100; ++i) {
    EXPECT_EQ(readahead.window(PageId{i * 1000}), 1U);
    readahead.advance(PageId{i * 1000 + 1});
  }
}

TEST(Readahead, AFaultThatIsTriedAgainIsNoOtherOne) {
  Readahead readahead;
  for (const PageId page : {PageId{7}, PageId{8}}) {
    for (int i = 0; i < 5; ++i) EXPECT_EQ(readahead.window(page), 1U);
    readahead.advance(page + PageCount{1});
  }
  for (int i = 0; i < 5; ++i) EXPECT_EQ(readahead.window(PageId{9}), 2U);
}

TEST(Readahead, SeveralStreamsGrowSideBySide) {
  Readahead readahead;
  PageId pages[4] = {PageId{0}, PageId{10000}, PageId{20000}, PageId{30000}};
  for (std::uint32_t round = 0; round < 8; ++round) {
    for (PageId& page : pages) {
      const std::uint32_t window = readahead.window(page);
      EXPECT_EQ(window, expected_window(round));
      page = page + PageCount{window};
      readahead.advance(page);
    }
  }
}

}  // namespace
}  // namespace polder
