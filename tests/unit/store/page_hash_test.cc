#include "store/page_hash.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "base/units.h"

namespace polder {
namespace {

struct alignas(kPageSize) Page {
  unsigned char bytes[kPageSize];
};

// From Debian's libxxhash 0.8.1, XXH3_128bits() of the same bytes.
TEST(PageHash, KnownAnswers) {
  Page page;
  std::memset(page.bytes, 0, kPageSize);
  EXPECT_EQ(hash_page(page.bytes), (PageHash{0x93d76fe148c689ba, 0x3ee8dc4f9e7ee495}));
  std::memset(page.bytes, 0xFF, kPageSize);
  EXPECT_EQ(hash_page(page.bytes), (PageHash{0x074cfac273851dd6, 0x5d26b21d7e0140bd}));
  for (unsigned i = 0; i < kPageSize; ++i) page.bytes[i] = static_cast<unsigned char>(i * 131 + i / 256);
  EXPECT_EQ(hash_page(page.bytes), (PageHash{0x1e0a232f4ec7fa9e, 0x74c54809a4beaa38}));
}

TEST(PageHash, EverySingleBitCounts) {
  Page page;
  std::mt19937_64 random(1);
  for (unsigned i = 0; i < kPageSize; ++i) page.bytes[i] = static_cast<unsigned char>(random());
  const PageHash whole = hash_page(page.bytes);
  for (unsigned bit = 0; bit < kPageSize * 8; ++bit) {
    page.bytes[bit / 8] ^= static_cast<unsigned char>(1U << (bit % 8));
    EXPECT_FALSE(hash_page(page.bytes) == whole) << bit;
    page.bytes[bit / 8] ^= static_cast<unsigned char>(1U << (bit % 8));
  }
  EXPECT_EQ(hash_page(page.bytes), whole);
}

TEST(PageHash, TornAndShiftedPagesDiffer) {
  Page first;
  Page second;
  std::mt19937_64 random(2);
  for (unsigned i = 0; i < kPageSize; ++i) {
    first.bytes[i] = static_cast<unsigned char>(random());
    second.bytes[i] = static_cast<unsigned char>(random());
  }
  Page torn;
  for (unsigned sector = 512; sector < kPageSize; sector += 512) {
    std::memcpy(torn.bytes, first.bytes, sector);
    std::memcpy(torn.bytes + sector, second.bytes + sector, kPageSize - sector);
    EXPECT_FALSE(hash_page(torn.bytes) == hash_page(first.bytes));
    EXPECT_FALSE(hash_page(torn.bytes) == hash_page(second.bytes));
    std::memcpy(torn.bytes, first.bytes + sector, kPageSize - sector);
    std::memcpy(torn.bytes + kPageSize - sector, first.bytes, sector);
    EXPECT_FALSE(hash_page(torn.bytes) == hash_page(first.bytes));
  }
}

}  // namespace
}  // namespace polder
