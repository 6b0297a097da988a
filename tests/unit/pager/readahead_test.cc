#include "pager/readahead.h"

#include <gtest/gtest.h>

namespace polder {
namespace {

TEST(Readahead, ASequentialStreamDoublesItsWindow) {
  Readahead readahead;
  PageId page{100};
  std::uint32_t expected = 1;
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t window = readahead.window(page);
    EXPECT_EQ(window, expected);
    page = page + PageCount{window};
    readahead.advance(page);
    expected = std::min(2 * expected, Readahead::kMaxWindow);
  }
}

TEST(Readahead, ScatteredFaultsReadOnePage) {
  Readahead readahead;
  for (std::uint32_t i = 0; i < 100; ++i) {
    EXPECT_EQ(readahead.window(PageId{i * 1000}), 1U);
    readahead.advance(PageId{i * 1000 + 1});
  }
}

TEST(Readahead, SeveralStreamsGrowSideBySide) {
  Readahead readahead;
  PageId pages[4] = {PageId{0}, PageId{10000}, PageId{20000}, PageId{30000}};
  for (int round = 0; round < 6; ++round) {
    for (PageId& page : pages) {
      const std::uint32_t window = readahead.window(page);
      EXPECT_EQ(window, std::min(1U << round, Readahead::kMaxWindow));
      page = page + PageCount{window};
      readahead.advance(page);
    }
  }
}

}  // namespace
}  // namespace polder
