#include "pager/fault_density.h"

#include <gtest/gtest.h>

#include <array>

namespace polder {
namespace {

constexpr std::uint32_t kFolios = 64;
constexpr std::uint32_t kReach = 100;

class FaultDensityTest : public testing::Test {
 protected:
  FaultDensityTest() { density_.use(memory_.data(), kFolios); }

  polder::Run fault(std::uint32_t page) {
    const polder::Run window = density_.window(PageId{page}, kReach);
    EXPECT_TRUE(window.first <= PageId{page} && PageId{page} < window.end());
    density_.advance();
    return window;
  }
  void pass_faults(std::uint32_t number) {
    for (std::uint32_t i = 0; i < number; ++i) fault(100'000 * kPagesPerFolio + i * 2 * kPagesPerFolio);
  }

  alignas(8) std::array<unsigned char, FaultDensity::bytes_for(kFolios)> memory_{};
  FaultDensity density_;
};

TEST_F(FaultDensityTest, AFoliosWindowGrowsWithItsFaults) {
  EXPECT_EQ(fault(165).pages, PageCount{1});
  const polder::Run second = fault(170);
  EXPECT_EQ(second.first, PageId{168});
  EXPECT_EQ(second.pages, PageCount{8});
  for (const std::uint32_t page : {161U, 175U}) {
    const polder::Run folio = fault(page);
    EXPECT_EQ(folio.first, PageId{160});
    EXPECT_EQ(folio.pages, PageCount{16});
  }
}

TEST_F(FaultDensityTest, FaultsFarApartHaveNothingToDoWithEachOther) {
  EXPECT_EQ(fault(0).pages, PageCount{1});
  pass_faults(kReach);
  EXPECT_EQ(fault(1).pages, PageCount{1});
  for (std::uint32_t i = 1; i < kFolios / 2; ++i) EXPECT_EQ(fault(i * 2 * kPagesPerFolio).pages, PageCount{1});
}

TEST_F(FaultDensityTest, TheNeighbourOfADenseFolioBeginsWithMore) {
  for (std::uint32_t page = 32; page < 35; ++page) fault(page);
  EXPECT_EQ(fault(48).pages, PageCount{8});
  EXPECT_EQ(fault(31).pages, PageCount{8});
  EXPECT_EQ(fault(5 * kPagesPerFolio).pages, PageCount{1});
}

TEST_F(FaultDensityTest, AFaultThatIsTriedAgainIsNoOtherOne) {
  fault(0);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(density_.window(PageId{1}, kReach).pages, PageCount{8});
  density_.advance();
  EXPECT_EQ(density_.window(PageId{2}, kReach).pages, PageCount{16});
}

// One page of each window is left out; where nobody asks for it, the others were not worth reading either.
TEST_F(FaultDensityTest, WindowsEndWhereNobodyWantsThem) {
  const auto visit = [this](std::uint32_t folio, bool wants_all) {
    const std::uint32_t first = folio * kPagesPerFolio;
    fault(first);
    const polder::Run window = density_.window(PageId{first + 1}, kReach);
    density_.probe(PageId{first + 5});
    EXPECT_EQ(density_.leaves_out(PageId{first + 5}), true);
    EXPECT_EQ(density_.leaves_out(PageId{first + 6}), false);
    density_.advance();
    EXPECT_EQ(density_.leaves_out(PageId{first + 5}), false);
    if (wants_all) fault(first + 5);
    return window.pages.value;
  };
  // Folios that are nobody's neighbours, each in the place of one that was there long ago.
  std::uint32_t folio = 0;
  for (int i = 0; i < 200; ++i) EXPECT_EQ(visit(folio += 3, true), 8U);
  std::uint64_t pages = 0;
  for (int i = 0; i < 400; ++i) pages = visit(folio += 3, false);
  EXPECT_EQ(pages, 1U);
  for (int i = 0; i < 400; ++i) pages = visit(folio += 3, true);
  EXPECT_EQ(pages, 8U);
}

// Whoever has the same place in the table displaces, and is not taken for, the other.
TEST_F(FaultDensityTest, FoliosWithOnePlaceDoNotMix) {
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(fault(0).pages, PageCount{1});
    EXPECT_EQ(fault(kFolios * kPagesPerFolio).pages, PageCount{1});
  }
}

}  // namespace
}  // namespace polder
