#include "heap/size_class.h"

#include <gtest/gtest.h>

namespace polder {
namespace {

TEST(SizeClass, EverySizeGetsTheSmallestClassThatHoldsIt) {
  for (std::size_t size = 0; size <= kLargestSmall; ++size) {
    const SizeClass size_class = size_class_for(size);
    ASSERT_GE(info_of(size_class).size, size);
    if (size_class.index > 1) {
      ASSERT_LT(kSizeClasses[size_class.index - 1].size, std::max<std::size_t>(size, 1));
    }
  }
}

TEST(SizeClass, WastesAtMostAQuarterAndAboveAKibibyteAnEighth) {
  for (std::size_t size = 113; size <= kLargestSmall; ++size) {
    const std::size_t part = size > 1024 ? 8 : 4;
    ASSERT_LE((info_of(size_class_for(size)).size - size) * part, size + 16) << size;
  }
}

TEST(SizeClass, AlignedClassesAreTheSmallestThatServe) {
  EXPECT_NE(size_class_for_aligned(4096, 4096).index, 0);
  for (std::size_t alignment = 1; alignment <= kLargestSmall; alignment *= 2) {
    for (std::size_t size = 0; size <= kLargestSmall; size += size < 300 ? 1 : 97) {
      const SizeClass size_class = size_class_for_aligned(size, alignment);
      if (size_class.index != 0) {
        ASSERT_GE(info_of(size_class).size, std::max(size, alignment));
        ASSERT_EQ(info_of(size_class).size % alignment, 0U);
      }
      const unsigned end = size_class.index != 0 ? size_class.index : kSizeClassCount + 1;
      for (unsigned smaller = 1; smaller < end; ++smaller) {
        ASSERT_FALSE(kSizeClasses[smaller].size >= size && kSizeClasses[smaller].size % alignment == 0);
      }
    }
  }
  EXPECT_EQ(size_class_for_aligned(16, 2 * kLargestSmall).index, 0);
  EXPECT_EQ(size_class_for_aligned(kLargestSmall + 1, 16).index, 0);
}

TEST(SizeClass, ArithmeticIsExactForEveryOffset) {
  for (unsigned index = 1; index <= kSizeClassCount; ++index) {
    const SizeClassInfo& info = kSizeClasses[index];
    const auto length = static_cast<std::uint32_t>(info.granules * kGranuleSize);
    for (std::uint32_t offset = 0; offset < length; ++offset) {
      ASSERT_EQ(object_index(info, offset), offset / info.size) << info.size;
      const bool start = offset % info.size == 0 && offset / info.size < info.capacity;
      ASSERT_EQ(is_object_start(info, offset), start) << info.size << " at " << offset;
    }
  }
}

}  // namespace
}  // namespace polder
