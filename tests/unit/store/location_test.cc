#include "store/location.h"

#include <gtest/gtest.h>

namespace polder {
namespace {

TEST(Location, DefaultIsNone) {
  EXPECT_TRUE(Location().is_none());
  EXPECT_EQ(Location::none().bits(), 0xFFFFFFFFU);
  EXPECT_FALSE(Location::none().is_pattern());
  EXPECT_FALSE(Location::none().is_swap());
}

TEST(Location, PacksFileAndSlot) {
  for (unsigned file = 0; file < Location::kFileCount; ++file) {
    for (const std::uint32_t slot : {0U, 1U, 0x0ABCDEFU, Location::kSlotLimit - 1}) {
      const Location location = Location::in_file(file, slot);
      EXPECT_EQ(location.file(), file);
      EXPECT_EQ(location.slot(), slot);
      EXPECT_TRUE(location.is_swap());
      EXPECT_FALSE(location.is_pattern());
      EXPECT_FALSE(location.is_none());
      EXPECT_EQ(Location::from_bits(location.bits()), location);
    }
  }
}

TEST(Location, PacksPatterns) {
  for (const std::uint32_t entry : {0U, 1U, 4095U, Location::kSlotLimit - 2}) {
    const Location location = Location::in_patterns(entry);
    EXPECT_TRUE(location.is_pattern());
    EXPECT_FALSE(location.is_swap());
    EXPECT_FALSE(location.is_none());
    EXPECT_EQ(location.slot(), entry);
  }
}

TEST(SlotRun, NamesItsSlots) {
  constexpr SlotRun kRun{.file = 3, .first = 64, .count = 4};
  static_assert(kRun[2] == Location::in_file(3, 66));
  EXPECT_EQ(SlotRun().count, 0U);
}

}  // namespace
}  // namespace polder
