#include "pager/readahead.h"

#include <gtest/gtest.h>

namespace polder {
namespace {

using Direction = Readahead::Direction;

// Of the fault that comes after `faults` others of its stream.
std::uint32_t expected_window(std::uint32_t faults) {
  if (faults + 1 < Readahead::kTrusted) return 1;
  return std::min(2U << (faults + 1 - Readahead::kTrusted), Readahead::kMaxWindow);
}

// `faults` faults upwards, each behind what was read with the one before. Where the next one is expected.
PageId walk_up(Readahead& readahead, PageId page, std::uint32_t faults) {
  for (std::uint32_t i = 0; i < faults; ++i) {
    page = page + PageCount{readahead.window(page).pages};
    readahead.advance(page);
  }
  return page;
}

TEST(Readahead, ASequentialStreamDoublesItsWindowOnceItIsTrusted) {
  Readahead readahead;
  PageId page{100};
  for (std::uint32_t i = 0; i < 12; ++i) {
    const Readahead::Window window = readahead.window(page);
    EXPECT_EQ(window.pages, expected_window(i));
    EXPECT_EQ(window.direction, Direction::up);
    EXPECT_EQ(window.length, i + 1);
    page = page + PageCount{window.pages};
    readahead.advance(page);
  }
}

TEST(Readahead, SoDoesOneThatGoesDown) {
  Readahead readahead;
  PageId page{100'000};
  for (std::uint32_t i = 0; i < 12; ++i) {
    const Readahead::Window window = readahead.window(page);
    EXPECT_EQ(window.pages, expected_window(i));
    EXPECT_EQ(window.direction, i == 0 ? Direction::up : Direction::down);
    const PageId below{page.value - window.pages};
    readahead.advance(i == 0 ? page + PageCount{1} : below);
    page = below;
  }
  // It does not turn round.
  EXPECT_EQ(readahead.window(page + PageCount{2}).pages, 1U);
}

TEST(Readahead, ScatteredFaultsReadOnePage) {
  Readahead readahead;
  for (std::uint32_t i = 0; i < 100; ++i) {
    EXPECT_EQ(readahead.window(PageId{i * 1000}).pages, 1U);
    readahead.advance(PageId{i * 1000 + 1});
  }
}

TEST(Readahead, AFaultThatIsTriedAgainIsNoOtherOne) {
  Readahead readahead;
  for (const PageId page : {PageId{7}, PageId{8}}) {
    for (int i = 0; i < 5; ++i) EXPECT_EQ(readahead.window(page).pages, 1U);
    readahead.advance(page + PageCount{1});
  }
  for (int i = 0; i < 5; ++i) EXPECT_EQ(readahead.window(PageId{9}).pages, 2U);
}

TEST(Readahead, SeveralStreamsGrowSideBySide) {
  Readahead readahead;
  PageId pages[4] = {PageId{0}, PageId{10000}, PageId{20000}, PageId{30000}};
  for (std::uint32_t round = 0; round < 8; ++round) {
    for (PageId& page : pages) {
      const std::uint32_t window = readahead.window(page).pages;
      EXPECT_EQ(window, expected_window(round));
      page = page + PageCount{window};
      readahead.advance(page);
    }
  }
}

TEST(Readahead, PagesThatAreThereAreSkippedOnceTwoFaultsHaveCome) {
  for (const std::uint32_t faults : {1U, 2U}) {
    Readahead readahead;
    const PageId next = walk_up(readahead, PageId{500}, faults);
    const std::uint32_t window = readahead.window(next + PageCount{Readahead::kReach - 1}).pages;
    EXPECT_EQ(window, faults == 1 ? 1 : expected_window(faults)) << faults;
    EXPECT_EQ(readahead.window(next + PageCount{Readahead::kReach}).pages, 1U) << faults;
  }
}

TEST(Readahead, AMarkerThatIsReachedContinuesItsStream) {
  Readahead readahead;
  const PageId marker = walk_up(readahead, PageId{500}, 2);
  readahead.window(marker);
  const PageId next = marker + PageCount{20};
  readahead.advance(next, marker);
  EXPECT_EQ(readahead.reached(next).pages, 0U);  // none is there
  const Readahead::Ahead ahead = readahead.reached(marker);
  EXPECT_EQ(ahead.from, next);
  EXPECT_EQ(ahead.pages, expected_window(3));
  EXPECT_EQ(ahead.direction, Direction::up);
  readahead.advance(next + PageCount{ahead.pages}, next);
  EXPECT_EQ(readahead.reached(marker).pages, 0U);
  EXPECT_EQ(readahead.reached(next).pages, expected_window(4));
}

}  // namespace
}  // namespace polder
