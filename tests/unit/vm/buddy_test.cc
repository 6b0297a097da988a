#include "vm/buddy.h"

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "unit/vm/metadata_fixture.h"

namespace polder {
namespace {

constexpr std::uint64_t kBlock = std::uint64_t{1} << Buddy::kMaxOrder;
using Contents = Buddy::Contents;

// A buddy of its own over nothing but its nodes.
class Instance {
 public:
  explicit Instance(std::uint64_t granules)
      : reservation_(MetadataArray<Buddy::Node>::bytes_for(granules)),
        space_(reservation_.space()),
        buddy_(MetadataArray<Buddy::Node>(space_, granules), {granules}) {}

  Buddy* operator->() { return &buddy_; }

  // The granule, or -1.
  std::int64_t take(std::uint64_t granules, std::uint64_t alignment = 1) {
    const std::optional<Buddy::Taken> taken = buddy_.allocate({granules}, {alignment});
    return taken ? std::int64_t{taken->first.value} : -1;
  }
  void give(std::int64_t first, std::uint64_t granules, Contents contents) {
    buddy_.free({static_cast<std::uint32_t>(first)}, {granules}, contents);
  }

 private:
  Reservation reservation_;
  MetadataSpace space_;
  Buddy buddy_;
};

TEST(Buddy, RoundsToPowersOfTwoAndToWholeBlocks) {
  EXPECT_EQ(Buddy::rounded({1}).value, 1U);
  EXPECT_EQ(Buddy::rounded({3}).value, 4U);
  EXPECT_EQ(Buddy::rounded({kBlock}).value, kBlock);
  EXPECT_EQ(Buddy::rounded({kBlock + 1}).value, 2 * kBlock);
  EXPECT_EQ(Buddy::rounded({5 * kBlock}).value, 5 * kBlock);
}

TEST(Buddy, HandsOutATailOfAnyLength) {
  Instance buddy(512 + 64 + 3);
  EXPECT_EQ(buddy.take(1024), -1);
  EXPECT_EQ(buddy.take(512), 0);
  EXPECT_EQ(buddy.take(64), 512);
  EXPECT_EQ(buddy.take(2), 576);
  EXPECT_EQ(buddy.take(1), 578);
  EXPECT_EQ(buddy.take(1), -1);
  buddy->verify();
  EXPECT_EQ(buddy->statistics().allocated.value, 579U);
  EXPECT_EQ(buddy->statistics().free.value, 0U);
}

TEST(Buddy, PrefersDirtyOfTheFittingOrderThenDirtyThenClean) {
  Instance buddy(1024);
  const std::int64_t one = buddy.take(1);     // 0
  const std::int64_t large = buddy.take(64);  // 64
  const std::int64_t other = buddy.take(1);   // 1
  buddy.give(large, 64, Contents::dirty);
  EXPECT_EQ(buddy.take(1), large);  // dirty, though clean ones fit better
  buddy.give(one, 1, Contents::dirty);
  EXPECT_EQ(buddy.take(1), one);  // of the fitting order
  buddy->verify();
  EXPECT_EQ(other, 1);
  const std::optional<Buddy::Taken> huge = buddy->allocate({256});
  ASSERT_TRUE(huge);
  EXPECT_FALSE(huge->dirty);
}

TEST(Buddy, GivesWhatGrowsTheBeginningOfALargerDirtyRun) {
  Instance buddy(1024);
  const std::int64_t one = buddy.take(1);     // 0
  const std::int64_t large = buddy.take(16);  // 16
  const std::int64_t huge = buddy.take(64);   // 64
  buddy.give(one, 1, Contents::dirty);
  buddy.give(large, 16, Contents::dirty);
  buddy.give(huge, 64, Contents::dirty);
  const std::optional<Buddy::Taken> growing = buddy->allocate({1}, {1}, Buddy::Fit::roomy);
  ASSERT_TRUE(growing);
  EXPECT_EQ(growing->first.value, large);  // 64 would be too much
  EXPECT_TRUE(growing->dirty);
  EXPECT_TRUE(buddy->extend(growing->first, {1}, {16}));
  const std::optional<Buddy::Taken> other = buddy->allocate({64}, {1}, Buddy::Fit::roomy);
  ASSERT_TRUE(other);
  EXPECT_EQ(other->first.value, huge);  // none is larger
  EXPECT_EQ(buddy.take(1), one);
  buddy->verify();
}

TEST(Buddy, CoalescesOnlyTheSameContentsUntilNothingElseFits) {
  Instance buddy(64);
  std::vector<std::int64_t> all;
  for (int i = 0; i < 64; ++i) all.push_back(buddy.take(1));
  for (const std::int64_t granule : all) buddy.give(granule, 1, granule % 2 == 0 ? Contents::dirty : Contents::clean);
  buddy->verify();
  EXPECT_EQ(buddy->statistics().free_runs[0], 64U);
  EXPECT_EQ(buddy->dirty().value, 32U);
  const std::optional<Buddy::Taken> taken = buddy->allocate({64});
  ASSERT_TRUE(taken);
  EXPECT_TRUE(taken->dirty);
  buddy->verify();
}

TEST(Buddy, PurgedRunsCoalesceWithCleanOnes) {
  Instance buddy(256);
  std::vector<std::int64_t> all;
  for (int i = 0; i < 16; ++i) all.push_back(buddy.take(16));
  for (const std::int64_t granule : all)
    buddy.give(granule, 16, granule / 16 % 3 == 0 ? Contents::dirty : Contents::clean);
  std::uint64_t purged = 0;
  while (const std::optional<Buddy::DirtyRun> dirty = buddy->isolate_dirty()) {
    purged += dirty->granules.value;
    buddy->free(dirty->first, dirty->granules, Contents::clean);
    buddy->verify();
  }
  EXPECT_EQ(purged, 96U);
  EXPECT_EQ(buddy->statistics().free_runs[8], 1U);
  EXPECT_EQ(buddy->dirty().value, 0U);
}

TEST(Buddy, IsolatesTheSmallestDirtyRun) {
  Instance buddy(1024);
  const std::int64_t small = buddy.take(4);
  const std::int64_t large = buddy.take(128);
  buddy.give(small, 4, Contents::dirty);
  buddy.give(large, 128, Contents::dirty);
  const std::optional<Buddy::DirtyRun> dirty = buddy->isolate_dirty();
  ASSERT_TRUE(dirty);
  EXPECT_EQ(dirty->first.value, small);
  EXPECT_EQ(dirty->granules.value, 4U);
  EXPECT_EQ(buddy->dirty().value, 128U);
  const std::optional<Buddy::DirtyRun> part = buddy->isolate_dirty({40});
  ASSERT_TRUE(part);
  EXPECT_EQ(part->first.value, 128U + 88);
  EXPECT_EQ(part->granules.value, 40U);
  EXPECT_EQ(buddy->dirty().value, 88U);
  buddy->verify();
  buddy->free(part->first, part->granules, Contents::clean);
  buddy->verify();
}

TEST(Buddy, AlignsBeyondTheSize) {
  Instance buddy(4096);
  EXPECT_EQ(buddy.take(1), 0);
  const std::int64_t aligned = buddy.take(3, 1024);
  EXPECT_EQ(aligned, 1024);
  const std::int64_t rest = buddy.take(4);  // what the alignment left over
  EXPECT_EQ(rest, 1028);
  EXPECT_EQ(buddy.take(1024), 2048);
  buddy->verify();
  buddy.give(aligned, 3, Contents::clean);
  buddy.give(rest, 4, Contents::clean);
  EXPECT_EQ(buddy.take(1024, 1024), 1024);
  EXPECT_EQ(buddy.take(4, 4096), -1);  // 0 is taken
  EXPECT_EQ(buddy.take(4, 8192), -1);
}

TEST(Buddy, TakesWholeBlocksFirstFit) {
  Instance buddy(8 * kBlock + 512);
  EXPECT_EQ(buddy.take(1), 0);
  const auto block = static_cast<std::int64_t>(kBlock);
  EXPECT_EQ(buddy.take(2 * kBlock), block);
  EXPECT_EQ(buddy.take(kBlock + 1), 3 * block);
  EXPECT_EQ(buddy.take(4 * kBlock), -1);
  EXPECT_EQ(buddy.take(3 * kBlock), 5 * block);
  buddy->verify();
  EXPECT_EQ(buddy.take(512), 512);
  buddy.give(3 * block, kBlock + 1, Contents::dirty);
  buddy.give(block, 2 * kBlock, Contents::clean);
  const std::optional<Buddy::Taken> taken = buddy->allocate({4 * kBlock});
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->first.value, kBlock);
  EXPECT_TRUE(taken->dirty);
  buddy->verify();
}

TEST(Buddy, AlignsBeyondTheHighestOrder) {
  Instance buddy(8 * kBlock);
  EXPECT_EQ(buddy.take(1), 0);
  const std::int64_t aligned = buddy.take(5, 4 * kBlock);
  EXPECT_EQ(aligned, static_cast<std::int64_t>(4 * kBlock));
  EXPECT_EQ(buddy.take(2 * kBlock, 2 * kBlock), static_cast<std::int64_t>(2 * kBlock));
  buddy->verify();
  buddy.give(aligned, 5, Contents::clean);
  EXPECT_EQ(buddy.take(3 * kBlock, 4 * kBlock), aligned);
  buddy->verify();
}

TEST(Buddy, ShrinksExactly) {
  Instance buddy(8 * kBlock);
  const std::int64_t first = buddy.take(4 * kBlock - 7);
  std::uint64_t held = 4 * kBlock - 7;
  for (const std::uint64_t to :
       {held, 3 * kBlock + 1, 2 * kBlock, kBlock, std::uint64_t{1000}, std::uint64_t{3}, std::uint64_t{1}}) {
    buddy->shrink({static_cast<std::uint32_t>(first)}, {held}, {to}, Contents::dirty);
    held = to;
    buddy->verify();
    EXPECT_EQ(buddy->allocated().value, to);
    EXPECT_EQ(buddy->dirty().value, 4 * kBlock - 7 - to);  // nobody has used what rounding took
  }
  buddy.give(first, 1, Contents::dirty);
  EXPECT_EQ(buddy->dirty().value, 4 * kBlock - 7);
  EXPECT_EQ(buddy->statistics().free.value, 4 * kBlock);
}

TEST(Buddy, TakesNeighboursTogetherWhateverTheirOrders) {
  Instance buddy(1024);
  std::vector<std::int64_t> all;
  for (int i = 0; i < 8; ++i) all.push_back(buddy.take(16));
  for (const int i : {1, 2, 3}) buddy.give(all[static_cast<std::size_t>(i)], 16, Contents::dirty);  // 16 … 64
  const std::optional<Buddy::Taken> first = buddy->allocate({40});
  ASSERT_TRUE(first);
  EXPECT_EQ(first->first.value, 16U);
  EXPECT_TRUE(first->dirty);
  EXPECT_EQ(buddy->allocated().value, 5 * 16 + 40U);
  buddy->verify();
  EXPECT_EQ(buddy.take(8), 56);
  buddy.give(16, 40, Contents::dirty);
  buddy.give(all[0], 16, Contents::clean);
  // A little of it may be clean; where alignment is asked for there is a block.
  const std::optional<Buddy::Taken> second = buddy->allocate({50});
  ASSERT_TRUE(second);
  EXPECT_EQ(second->first.value, 0U);
  EXPECT_TRUE(second->dirty);
  buddy->verify();
  buddy->free(second->first, {50}, Contents::dirty);
  const std::optional<Buddy::Taken> aligned = buddy->allocate({50}, {64});
  ASSERT_TRUE(aligned);
  EXPECT_EQ(aligned->first.value % 64, 0U);
  buddy->verify();
}

TEST(Buddy, ExtendsIntoItsRoundingAndWhatIsFreeBehind) {
  Instance buddy(4 * kBlock + 100);
  const std::int64_t run = buddy.take(5);
  const auto extend = [&](std::uint64_t from, std::uint64_t to) {
    const bool extended = buddy->extend({static_cast<std::uint32_t>(run)}, {from}, {to});
    buddy->verify();
    return extended;
  };
  EXPECT_TRUE(extend(5, 8));
  EXPECT_EQ(buddy->allocated().value, 8U);
  EXPECT_TRUE(extend(8, 9));
  EXPECT_EQ(buddy->allocated().value, 9U);
  const std::int64_t wall = buddy.take(1, 1024);
  EXPECT_EQ(wall, 1024);
  EXPECT_FALSE(extend(9, 1025));
  EXPECT_TRUE(extend(9, 1024));
  buddy.give(wall, 1, Contents::dirty);
  EXPECT_TRUE(extend(1024, 3 * kBlock + 77));  // beyond the frontier
  EXPECT_FALSE(extend(3 * kBlock + 77, 4 * kBlock + 101));
  EXPECT_TRUE(extend(3 * kBlock + 77, 4 * kBlock + 100));
  EXPECT_EQ(buddy.take(1), -1);
  buddy.give(run, 4 * kBlock + 100, Contents::clean);
  buddy->verify();
  EXPECT_EQ(buddy->statistics().free.value, 4 * kBlock + 100);
}

TEST(BuddyDeathTest, AssertsThatWhatIsFreedWasTaken) {
  Instance buddy(1024);
  const std::int64_t run = buddy.take(8);
  EXPECT_DEATH(buddy.give(run, 4, Contents::clean), "run is not allocated with that size");
  EXPECT_DEATH(buddy.give(run + 4, 4, Contents::clean), "run is not allocated with that size");
  EXPECT_DEATH(buddy.give(900, 1, Contents::clean), "run is not allocated with that size");
  EXPECT_DEATH(buddy.give(2000, 1, Contents::clean), "run was never handed out");
  buddy.give(run, 7, Contents::clean);
  EXPECT_DEATH(buddy.give(run, 8, Contents::clean), "run is not allocated with that size");
}

// --- against a model --------------------------------------------------------------------------------------------------

// The reference: who owns every granule, and whether its pages may be resident.
class Model {
 public:
  explicit Model(std::uint64_t granules) : owned_(granules), dirty_(granules) {}

  bool can_take(std::uint64_t granules, std::uint64_t alignment) const {
    const std::uint64_t length = Buddy::rounded({granules}).value;
    const std::uint64_t step = std::max(alignment, std::min(length, kBlock));
    // What a buddy can give: blocks aligned to their size, wholly free, inside the arena. An alignment beyond the size
    // takes a block of the alignment; beyond the highest order, whole blocks at aligned places.
    const std::uint64_t needed = alignment > kBlock ? std::max(length, kBlock) : std::max(length, alignment);
    for (std::uint64_t start = 0; start + needed <= owned_.size(); start += step) {
      if (is_free(start, needed)) return true;
    }
    return false;
  }
  bool is_free(std::uint64_t first, std::uint64_t length) const {
    for (std::uint64_t i = first; i < first + length; ++i) {
      if (owned_[i]) return false;
    }
    return true;
  }
  bool is_dirty(std::uint64_t first, std::uint64_t length) const {
    for (std::uint64_t i = first; i < first + length; ++i) {
      if (dirty_[i]) return true;
    }
    return false;
  }
  void take(std::uint64_t first, std::uint64_t length) {
    for (std::uint64_t i = first; i < first + length; ++i) owned_[i] = true;
  }
  void give(std::uint64_t first, std::uint64_t length, Contents contents) {
    for (std::uint64_t i = first; i < first + length; ++i) {
      owned_[i] = false;
      dirty_[i] = contents == Contents::dirty;
    }
  }
  std::uint64_t owned() const {
    std::uint64_t count = 0;
    for (const bool owned : owned_) count += owned;
    return count;
  }

 private:
  std::vector<bool> owned_;
  std::vector<bool> dirty_;
};

struct Shape {
  std::uint64_t granules;
  std::uint64_t largest;  // request
  int steps;
};

class BuddyModelTest : public testing::TestWithParam<Shape> {};

TEST_P(BuddyModelTest, AgreesWithTheModel) {
  const Shape shape = GetParam();
  Instance buddy(shape.granules);
  Model model(shape.granules);
  struct Live {
    std::uint64_t first;
    std::uint64_t granules;
    std::uint64_t length;  // with what rounding took
  };
  std::vector<Live> live;
  std::mt19937_64 random(shape.granules);
  const auto contents = [&] { return random() % 2 == 0 ? Contents::dirty : Contents::clean; };

  for (int step = 0; step < shape.steps; ++step) {
    const std::uint64_t action = random() % 100;
    if (action < 50) {
      const std::uint64_t widest = std::uint64_t{1} << random() % std::bit_width(shape.largest);
      const std::uint64_t granules = 1 + random() % std::min(2 * widest, shape.largest);
      const std::uint64_t alignment =
          random() % 4 == 0 ? std::uint64_t{1} << random() % std::bit_width(shape.granules) : 1;
      const std::optional<Buddy::Taken> taken = buddy->allocate({granules}, {alignment});
      // Of dirty runs several neighbours may serve where no block would.
      ASSERT_TRUE(taken || !model.can_take(granules, alignment)) << granules << " aligned to " << alignment;
      if (!taken) continue;
      const std::uint64_t length = taken->dirty ? granules : Buddy::rounded({granules}).value;
      ASSERT_EQ(taken->first.value % alignment, 0U);
      ASSERT_LE(taken->first.value + length, shape.granules);
      ASSERT_TRUE(model.is_free(taken->first.value, length));
      ASSERT_TRUE(taken->dirty || !model.is_dirty(taken->first.value, length));
      model.take(taken->first.value, length);
      live.push_back({taken->first.value, granules, length});
    } else if (action < 90 && !live.empty()) {
      std::swap(live[random() % live.size()], live.back());
      const Live gone = live.back();
      live.pop_back();
      const Contents as = contents();
      buddy->free({static_cast<std::uint32_t>(gone.first)}, {gone.granules}, as);
      model.give(gone.first, gone.granules, as);
      model.give(gone.first + gone.granules, gone.length - gone.granules, Contents::clean);
    } else if (action < 95 && !live.empty()) {
      Live& shrunk = live[random() % live.size()];
      const std::uint64_t to = 1 + random() % shrunk.granules;
      const Contents as = contents();
      buddy->shrink({static_cast<std::uint32_t>(shrunk.first)}, {shrunk.granules}, {to}, as);
      model.give(shrunk.first + to, shrunk.granules - to, as);
      model.give(shrunk.first + shrunk.granules, shrunk.length - shrunk.granules, Contents::clean);
      shrunk.granules = shrunk.length = to;
    } else if (action < 98 && !live.empty()) {
      Live& grown = live[random() % live.size()];
      const std::uint64_t to = grown.granules + random() % (1 + random() % shape.largest);
      const std::uint64_t end = grown.first + to;
      const bool expected =
          to <= grown.length || (end <= shape.granules && model.is_free(grown.first + grown.length, to - grown.length));
      ASSERT_EQ(buddy->extend({static_cast<std::uint32_t>(grown.first)}, {grown.granules}, {to}), expected);
      if (!expected) continue;
      grown.granules = to;
      if (to <= grown.length) continue;
      model.take(grown.first + grown.length, to - grown.length);
      grown.length = to;
    } else if (const std::optional<Buddy::DirtyRun> dirty = buddy->isolate_dirty({1 + random() % 40})) {
      ASSERT_TRUE(model.is_free(dirty->first.value, dirty->granules.value));
      buddy->free(dirty->first, dirty->granules, Contents::clean);
      model.give(dirty->first.value, dirty->granules.value, Contents::clean);
    } else {
      for (std::uint64_t i = 0; i < shape.granules; ++i) {
        ASSERT_FALSE(model.is_free(i, 1) && model.is_dirty(i, 1))
            << "granule " << i << " is dirty and cannot be purged";
      }
    }
    if (step % (shape.steps / 500) == 0) {
      buddy->verify();
      ASSERT_EQ(buddy->allocated().value, model.owned());
    }
  }
  for (const Live& left : live) buddy.give(static_cast<std::int64_t>(left.first), left.granules, Contents::clean);
  while (const std::optional<Buddy::DirtyRun> dirty = buddy->isolate_dirty()) {
    buddy->free(dirty->first, dirty->granules, Contents::clean);
  }
  buddy->verify();
  // Everything has come together again: one run per bit of the arena's length.
  const Buddy::Statistics statistics = buddy->statistics();
  EXPECT_EQ(statistics.allocated.value, 0U);
  EXPECT_EQ(statistics.free, statistics.frontier);
  for (unsigned order = 0; order < Buddy::kMaxOrder; ++order) {
    EXPECT_EQ(statistics.free_runs[order], statistics.frontier.value >> order & 1) << "order " << order;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, BuddyModelTest,
                         testing::Values(Shape{64, 64, 200'000}, Shape{100, 20, 200'000}, Shape{1, 1, 1'000},
                                         Shape{512, 128, 100'000}, Shape{1023, 300, 50'000}, Shape{4096, 1024, 20'000},
                                         Shape{5 * kBlock + 1536, 3 * kBlock, 1'000}));

TEST(Buddy, KeepsThreadsApart) {
  constexpr std::uint64_t kGranules = 4096;
  Instance buddy(kGranules);
  auto owner = std::make_unique<std::atomic<unsigned>[]>(kGranules);
  std::vector<std::thread> threads;
  for (unsigned thread = 1; thread <= 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(thread);
      std::vector<std::pair<std::uint32_t, std::uint64_t>> live;
      for (int step = 0; step < 20'000; ++step) {
        if (random() % 2 == 0) {
          const std::uint64_t granules = 1 + random() % 40;
          const std::optional<Buddy::Taken> taken = buddy->allocate({granules});
          if (!taken) continue;
          for (std::uint64_t i = 0; i < granules; ++i) ASSERT_EQ(owner[taken->first.value + i].exchange(thread), 0U);
          live.emplace_back(taken->first.value, granules);
        } else if (!live.empty()) {
          std::swap(live[random() % live.size()], live.back());
          const auto [first, granules] = live.back();
          live.pop_back();
          for (std::uint64_t i = 0; i < granules; ++i) ASSERT_EQ(owner[first + i].exchange(0), thread);
          buddy->free({first}, {granules}, random() % 2 == 0 ? Contents::dirty : Contents::clean);
        } else if (const std::optional<Buddy::DirtyRun> dirty = buddy->isolate_dirty()) {
          buddy->free(dirty->first, dirty->granules, Contents::clean);
        }
      }
      for (const auto& [first, granules] : live) {
        for (std::uint64_t i = 0; i < granules; ++i) owner[first + i].store(0);
        buddy->free({first}, {granules}, Contents::clean);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  buddy->verify();
  EXPECT_EQ(buddy->allocated().value, 0U);
}

}  // namespace
}  // namespace polder
