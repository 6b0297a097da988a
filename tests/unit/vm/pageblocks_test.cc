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

TEST_F(PageblocksTest, AdviceThatPartsTooManyMappingsIsRefused) {
  const os::MutexLock lock(blocks_.mutex());
  std::uint32_t refused = 0;
  for (std::uint32_t block = 1; block < kBlocks; block += 2) {
    if (!blocks_.try_advise_locked(BlockId{block}, BlockAdvice::huge)) ++refused;
    EXPECT_EQ(blocks_.is_huge_locked(BlockId{block}), refused == 0);
  }
  EXPECT_GT(refused, 0U);
  EXPECT_TRUE(blocks_.try_advise_locked(BlockId{2}, BlockAdvice::huge));            // joins two
  EXPECT_TRUE(blocks_.try_advise_locked(BlockId{kBlocks - 2}, BlockAdvice::huge));  // the borders that this spared
  EXPECT_FALSE(blocks_.try_advise_locked(BlockId{2}, BlockAdvice::small));          // would part them again
  EXPECT_TRUE(blocks_.is_huge_locked(BlockId{2}));
  EXPECT_TRUE(blocks_.try_advise_locked(BlockId{4}, BlockAdvice::huge));
  EXPECT_TRUE(blocks_.try_advise_locked(BlockId{2}, BlockAdvice::small));
  EXPECT_FALSE(blocks_.is_huge_locked(BlockId{2}));
  blocks_.advise_all_small_locked();
  EXPECT_FALSE(blocks_.is_huge_locked(BlockId{1}));
  EXPECT_TRUE(blocks_.try_advise_locked(BlockId{kBlocks - 1}, BlockAdvice::huge));
}

TEST(Pageblocks, AdviceReachesBlocksThatBecomeKnownLater) {
  constexpr std::uint32_t kBlocks = 64;
  const std::size_t size = MetadataArray<Pageblocks::Block>::bytes_for(kBlocks);
  char* const memory = os::reserve(size, kPageSize).value;
  MetadataSpace space(memory, size);
  Pageblocks blocks(MetadataArray<Pageblocks::Block>(space, kBlocks));
  const os::MutexLock lock(blocks.mutex());
  for (int round = 0; round < 2; ++round) {
    for (std::uint32_t block = 0; block < kBlocks; ++block) {
      ASSERT_TRUE(blocks.ensure_locked(BlockId{block + 1}).ok());
      EXPECT_TRUE(blocks.try_advise_locked(BlockId{block}, BlockAdvice::huge));
    }
    for (std::uint32_t block = 0; block < kBlocks; block += 2) {
      EXPECT_TRUE(blocks.try_advise_locked(BlockId{block}, BlockAdvice::small));
    }
    for (std::uint32_t block = 1; block < kBlocks; block += 2) {
      EXPECT_TRUE(blocks.try_advise_locked(BlockId{block}, BlockAdvice::small));
    }
    blocks.advise_all_small_locked();
  }
  os::release(memory, size);
}

TEST_F(PageblocksTest, RemembersWhatOfABlockWasNeverProvided) {
  const os::MutexLock lock(blocks_.mutex());
  EXPECT_EQ(blocks_.end_unprovided_locked(BlockId{7}), 0U);
  blocks_.begin_unprovided_locked(BlockId{7});
  blocks_.note_provided_locked(BlockId{7}, 0xF0);
  EXPECT_EQ(blocks_.end_unprovided_locked(BlockId{7}), ~std::uint64_t{0xF0});
  EXPECT_EQ(blocks_.end_unprovided_locked(BlockId{7}), 0U);
}

TEST_F(PageblocksTest, RemembersWhatIsHandedOut) {
  EXPECT_EQ(blocks_.handed_out(GranuleId{3}), 0U);
  blocks_.set_handed_out(GranuleId{3}, kPagesPerGranule);
  EXPECT_EQ(blocks_.handed_out(GranuleId{3}), kPagesPerGranule);
  EXPECT_FALSE(blocks_.known(BlockId{kBlocks}));
}

}  // namespace
}  // namespace polder
