#include "vm/pageblocks.h"

#include <gtest/gtest.h>

#include "os/mapping.h"

namespace polder {
namespace {

class PageblocksTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kBlocks = 8192;

  PageblocksTest()
      : size_(MetadataArray<Pageblocks::Block>::bytes_for(kBlocks)),
        memory_(os::reserve(size_, kPageSize).value),
        space_(memory_, size_),
        blocks_(MetadataArray<Pageblocks::Block>(space_, kBlocks)) {
    const os::MutexLock lock(blocks_.mutex());
    EXPECT_TRUE(blocks_.ensure_locked(BlockId{kBlocks}).ok());
  }
  ~PageblocksTest() override { os::release(memory_, size_); }

  std::size_t size_;
  char* memory_;
  MetadataSpace space_;
  Pageblocks blocks_;
};

TEST_F(PageblocksTest, OldestNativeComesFirst) {
  const os::MutexLock lock(blocks_.mutex());
  for (const std::uint32_t block : {5U, 2U, 9U}) blocks_.make_native_locked(BlockId{block});
  EXPECT_EQ(blocks_.native_blocks(), BlockCount{3});
  EXPECT_EQ(blocks_.oldest_native_locked(), BlockId{5});
  blocks_.begin_conversion_locked(BlockId{5});
  EXPECT_EQ(blocks_.mode(BlockId{5}), BlockMode::converting);
  blocks_.end_conversion_locked(BlockId{5});
  EXPECT_EQ(blocks_.mode(BlockId{5}), BlockMode::managed);
  EXPECT_EQ(blocks_.native_blocks(), BlockCount{2});
  EXPECT_EQ(blocks_.managed_blocks(), BlockCount{1});
  EXPECT_EQ(blocks_.oldest_native_locked(), BlockId{2});
}

TEST_F(PageblocksTest, ABlockConvertedOutOfTurnLeavesNoTraceInTheQueue) {
  const os::MutexLock lock(blocks_.mutex());
  for (const std::uint32_t block : {0U, 1U, 2U}) blocks_.make_native_locked(BlockId{block});
  blocks_.begin_conversion_locked(BlockId{1});
  blocks_.end_conversion_locked(BlockId{1});
  EXPECT_EQ(blocks_.oldest_native_locked(), BlockId{0});
  EXPECT_EQ(blocks_.oldest_native_locked(), BlockId{2});
  EXPECT_EQ(blocks_.oldest_native_locked(), std::nullopt);
}

TEST_F(PageblocksTest, ARefusedConversionQueuesAgainOnce) {
  const os::MutexLock lock(blocks_.mutex());
  blocks_.make_native_locked(BlockId{0});
  blocks_.make_native_locked(BlockId{1});
  blocks_.begin_conversion_locked(BlockId{0});  // still in the queue
  blocks_.cancel_conversion_locked(BlockId{0});
  EXPECT_EQ(blocks_.oldest_native_locked(), BlockId{0});
  blocks_.begin_conversion_locked(BlockId{0});  // out of the queue now
  blocks_.cancel_conversion_locked(BlockId{0});
  EXPECT_EQ(blocks_.oldest_native_locked(), BlockId{1});
  EXPECT_EQ(blocks_.oldest_native_locked(), BlockId{0});
  EXPECT_EQ(blocks_.oldest_native_locked(), std::nullopt);
  EXPECT_EQ(blocks_.native_blocks(), BlockCount{2});
}

TEST_F(PageblocksTest, HugePagesAreWantedInNeighboursOrNotAtAll) {
  const os::MutexLock lock(blocks_.mutex());
  std::uint32_t refused = 0;
  for (std::uint32_t block = 1; block < kBlocks; block += 2) {
    if (!blocks_.try_set_huge_locked(BlockId{block}, true)) ++refused;
    EXPECT_EQ(blocks_.is_huge_locked(BlockId{block}), refused == 0);
  }
  EXPECT_GT(refused, 0U);
  EXPECT_TRUE(blocks_.try_set_huge_locked(BlockId{2}, true));            // joins two
  EXPECT_TRUE(blocks_.try_set_huge_locked(BlockId{0}, true));            // beside one
  EXPECT_TRUE(blocks_.try_set_huge_locked(BlockId{kBlocks - 2}, true));  // the one that is left
  EXPECT_FALSE(blocks_.try_set_huge_locked(BlockId{1}, false));          // would part two
  EXPECT_TRUE(blocks_.is_huge_locked(BlockId{1}));
  EXPECT_TRUE(blocks_.try_set_huge_locked(BlockId{kBlocks - 2}, false));
  EXPECT_TRUE(blocks_.try_set_huge_locked(BlockId{1}, false));
  EXPECT_FALSE(blocks_.is_huge_locked(BlockId{1}));
}

TEST_F(PageblocksTest, RemembersWhatIsHandedOut) {
  EXPECT_EQ(blocks_.handed_out(GranuleId{3}), 0U);
  blocks_.set_handed_out(GranuleId{3}, kPagesPerGranule);
  EXPECT_EQ(blocks_.handed_out(GranuleId{3}), kPagesPerGranule);
  EXPECT_FALSE(blocks_.known(BlockId{kBlocks}));
}

}  // namespace
}  // namespace polder
