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

// A buddy of its own over nothing but its metadata.
class Instance {
 public:
  explicit Instance(std::uint64_t granules)
      : reservation_(Buddy::metadata_bytes({granules})), space_(reservation_.space()), buddy_(space_, {granules}) {}

  Buddy* operator->() { return &buddy_; }

  // The granule, or -1.
  std::int64_t take(std::uint64_t granules, std::uint64_t alignment = 1, Buddy::Fit fit = Buddy::Fit::tight) {
    const std::optional<Buddy::Taken> taken = buddy_.allocate({granules}, {alignment}, fit);
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

TEST(Buddy, TakesTheLowestThatIsLongEnoughWhereNothingIsDirty) {
  Instance buddy(2 * kBlock);
  std::vector<std::int64_t> all;
  for (int i = 0; i < 64; ++i) all.push_back(buddy.take(100));
  for (const std::size_t i : {40U, 10U, 11U}) buddy.give(all[i], 100, Contents::clean);
  EXPECT_EQ(buddy.take(150), 1000);
  EXPECT_EQ(buddy.take(101), 6400);  // 1150 and 4000 are too short
  EXPECT_EQ(buddy.take(50), 1150);
  EXPECT_EQ(buddy.take(100), 4000);
  buddy->verify();
}

TEST(Buddy, FindsRunsAcrossAnyOfTheTreesBorders) {
  for (const std::uint64_t border : {std::uint64_t{64}, std::uint64_t{256}, std::uint64_t{512}, kBlock / 2, kBlock}) {
    Instance buddy(3 * kBlock);
    EXPECT_EQ(buddy.take(border - 20), 0);
    const std::int64_t across = buddy.take(40);
    EXPECT_EQ(buddy.take(kBlock), static_cast<std::int64_t>(border) + 20);
    buddy.give(across, 40, Contents::clean);
    EXPECT_EQ(buddy.take(41), static_cast<std::int64_t>(border + 20 + kBlock)) << border;
    EXPECT_EQ(buddy.take(40), across) << border;
    buddy->verify();
  }
}

TEST(Buddy, KeepsRoomBehindWhatGrows) {
  Instance buddy(kBlock);
  const std::int64_t run = buddy.take(5, 1, Buddy::Fit::roomy);
  EXPECT_EQ(buddy->allocated().value, 8U);
  EXPECT_EQ(buddy.take(1), 8);
  EXPECT_TRUE(buddy->extend({static_cast<std::uint32_t>(run)}, {5}, {7}));
  buddy->verify();
  EXPECT_EQ(buddy->allocated().value, 9U);
  EXPECT_FALSE(buddy->extend({static_cast<std::uint32_t>(run)}, {7}, {9}));
  buddy.give(run, 7, Contents::dirty);
  EXPECT_EQ(buddy->allocated().value, 1U);
  EXPECT_EQ(buddy->dirty().value, 7U);  // nobody has used what was room
  buddy->verify();
}

TEST(Buddy, KeepsNoRoomThatMayBeResident) {
  Instance buddy(kBlock);
  buddy.give(buddy.take(7), 7, Contents::dirty);
  EXPECT_EQ(buddy.take(5, 1, Buddy::Fit::roomy), 0);
  EXPECT_EQ(buddy->allocated().value, 5U);
  EXPECT_EQ(buddy->dirty().value, 2U);
  buddy->verify();
}

TEST(Buddy, PutsWhatGrowsWhereMuchIsFree) {
  Instance buddy(1024);
  const std::int64_t small = buddy.take(40);
  EXPECT_EQ(buddy.take(1), 40);
  buddy.give(small, 40, Contents::clean);
  EXPECT_EQ(buddy.take(10, 1, Buddy::Fit::roomy), 41);
  EXPECT_EQ(buddy.take(700), 57);
  EXPECT_EQ(buddy.take(30, 1, Buddy::Fit::roomy), 757);  // nowhere is there 16 times as much
  EXPECT_EQ(buddy.take(10), 0);
  buddy->verify();
}

TEST(Buddy, UsesTheShortestDirtyStretchFirst) {
  Instance buddy(1024);
  const std::int64_t clean = buddy.take(5);
  const std::int64_t borders[] = {buddy.take(1), buddy.take(60), buddy.take(1), buddy.take(12), buddy.take(1)};
  buddy.give(clean, 5, Contents::clean);
  buddy.give(borders[1], 60, Contents::dirty);
  buddy.give(borders[3], 12, Contents::dirty);
  EXPECT_EQ(buddy.take(4), borders[3]);
  EXPECT_EQ(buddy.take(8, 8), borders[1] + 2);
  EXPECT_EQ(buddy.take(9, 1, Buddy::Fit::roomy), borders[1] + 10);
  EXPECT_EQ(buddy.take(2, 1, Buddy::Fit::roomy), borders[1]);
  EXPECT_EQ(buddy.take(42, 1, Buddy::Fit::roomy), borders[4] + 1);  // one more than is left
  EXPECT_EQ(buddy.take(41), borders[1] + 19);
  EXPECT_EQ(buddy.take(8), borders[3] + 4);
  EXPECT_EQ(buddy->dirty().value, 0U);
  buddy->verify();
}

TEST(Buddy, UsesThePlaceThatHoldsMostOfWhatIsDirtyWhereNoStretchIsLongEnough) {
  Instance buddy(1024);
  const std::int64_t clean = buddy.take(20);
  const std::int64_t runs[] = {buddy.take(4), buddy.take(1), buddy.take(6),
                               buddy.take(8), buddy.take(1), buddy.take(5)};
  buddy.give(clean, 20, Contents::clean);
  buddy.give(runs[0], 4, Contents::dirty);  // behind 20 that are clean
  buddy.give(runs[2], 6, Contents::clean);
  buddy.give(runs[3], 8, Contents::dirty);  // behind six that are
  buddy.give(runs[5], 5, Contents::dirty);  // before all that were never used
  EXPECT_EQ(buddy.take(9, 16), 0);          // nothing dirty can be had there
  EXPECT_EQ(buddy.take(9), runs[3] - 1);
  EXPECT_EQ(buddy.take(9), runs[5]);
  EXPECT_EQ(buddy.take(9), 9);  // the lowest: the four that are left are too few to look for
  EXPECT_EQ(buddy->dirty().value, 4U);
  buddy->verify();
}

// A hole that is just long enough is taken although its alignment could have been worse.
TEST(Buddy, UsesAlignedHolesOfTheSameLength) {
  for (const Buddy::Fit fit : {Buddy::Fit::roomy, Buddy::Fit::clean}) {
    Instance buddy(kBlock);
    EXPECT_EQ(buddy.take(3), 0);
    const std::int64_t odd = buddy.take(64);
    EXPECT_EQ(buddy.take(1), 67);
    const std::int64_t even = buddy.take(64);
    EXPECT_EQ(buddy.take(kBlock - 232), 132);
    buddy.give(odd, 64, Contents::clean);
    buddy.give(even, 64, Contents::clean);
    EXPECT_EQ(buddy.take(64, 2, fit), even);
    EXPECT_EQ(buddy.take(64, 2, fit), static_cast<std::int64_t>(kBlock) - 100);
    EXPECT_EQ(buddy.take(64, 1, fit), odd);
    buddy->verify();
  }
}

TEST(Buddy, FindsCleanRunsForPagesToBeMovedInto) {
  Instance buddy(2048);
  std::vector<std::int64_t> all;
  for (int i = 0; i < 80; ++i) all.push_back(buddy.take(16));
  for (std::size_t i = 0; i < 70; ++i) buddy.give(all[i], 16, i % 10 == 4 ? Contents::dirty : Contents::clean);
  const std::optional<Buddy::Taken> low = buddy->allocate({60}, {1}, Buddy::Fit::clean);
  ASSERT_TRUE(low);
  EXPECT_EQ(low->first.value, 0U);
  EXPECT_FALSE(low->dirty);
  EXPECT_EQ(buddy.take(100, 1, Buddy::Fit::clean), 80);
  EXPECT_EQ(buddy.take(200, 1, Buddy::Fit::clean), 1280);  // no room to the next dirty one, nor between them
  buddy->verify();
}

TEST(Buddy, LooksForCleanRunsNotForEver) {
  Instance buddy(4096);
  std::vector<std::int64_t> all;
  for (int i = 0; i < 400; ++i) all.push_back(buddy.take(4));
  for (std::size_t i = 0; i < all.size(); ++i) buddy.give(all[i], 4, i % 2 == 1 ? Contents::dirty : Contents::clean);
  const std::int64_t clean = buddy.take(8, 1, Buddy::Fit::clean);
  EXPECT_GE(clean, 1600);
  buddy->verify();
}

TEST(Buddy, CountsFreeRunsAsAlignedBlocks) {
  Instance buddy(64);
  std::vector<std::int64_t> all;
  for (int i = 0; i < 64; ++i) all.push_back(buddy.take(1));
  for (const std::int64_t granule : all) {
    if (granule % 2 == 1) buddy.give(granule, 1, Contents::dirty);
  }
  EXPECT_EQ(buddy->statistics().free_runs[0], 32U);
  EXPECT_EQ(buddy->dirty().value, 32U);
  for (const std::int64_t granule : all) {
    if (granule % 2 == 0) buddy.give(granule, 1, Contents::clean);
  }
  EXPECT_EQ(buddy->statistics().free_runs[6], 1U);
  const std::optional<Buddy::Taken> taken = buddy->allocate({64});
  ASSERT_TRUE(taken);
  EXPECT_TRUE(taken->dirty);
  buddy->verify();
}

TEST(Buddy, IsolatesTheHighestDirtyRun) {
  Instance buddy(1024);
  const std::int64_t low = buddy.take(128);
  EXPECT_EQ(buddy.take(1), 128);
  const std::int64_t high = buddy.take(4);
  buddy.give(high, 4, Contents::dirty);
  buddy.give(low, 128, Contents::dirty);
  const std::optional<Buddy::DirtyRun> dirty = buddy->isolate_dirty();
  ASSERT_TRUE(dirty);
  EXPECT_EQ(dirty->first.value, high);
  EXPECT_EQ(dirty->granules.value, 4U);
  EXPECT_EQ(buddy->dirty().value, 128U);
  const std::optional<Buddy::DirtyRun> part = buddy->isolate_dirty({40});
  ASSERT_TRUE(part);
  EXPECT_EQ(part->first.value, 88U);
  EXPECT_EQ(part->granules.value, 40U);
  EXPECT_EQ(buddy->dirty().value, 88U);
  buddy->verify();
  buddy->free(part->first, part->granules, Contents::clean);
  buddy->verify();
}

TEST(Buddy, IsolatesADirtyRunOfSeveralLeavesAsAWhole) {
  Instance buddy(2048);
  const std::int64_t used = buddy.take(100);
  const std::int64_t long_one = buddy.take(700);
  buddy.give(long_one, 700, Contents::dirty);
  const std::optional<Buddy::DirtyRun> dirty = buddy->isolate_dirty();
  ASSERT_TRUE(dirty);
  EXPECT_EQ(dirty->first.value, long_one);
  EXPECT_EQ(dirty->granules.value, 700U);
  EXPECT_EQ(buddy->dirty().value, 0U);
  buddy->verify();
  buddy->free(dirty->first, dirty->granules, Contents::clean);
  buddy.give(used, 100, Contents::clean);
  buddy->verify();
}

TEST(Buddy, AlignsBeyondTheSize) {
  Instance buddy(4096);
  EXPECT_EQ(buddy.take(1), 0);
  const std::int64_t aligned = buddy.take(3, 1024);
  EXPECT_EQ(aligned, 1024);
  EXPECT_EQ(buddy.take(1024), 1027);
  EXPECT_EQ(buddy.take(4), 1);
  EXPECT_EQ(buddy.take(32, 32), 32);
  EXPECT_EQ(buddy.take(32, 32), 64);
  buddy.give(32, 32, Contents::dirty);
  EXPECT_EQ(buddy.take(32, 32), 32);  // a hole that fits exactly
  buddy->verify();
  EXPECT_EQ(buddy.take(4, 4096), -1);  // 0 is taken
  EXPECT_EQ(buddy.take(4, 8192), -1);
}

TEST(Buddy, TakesMoreThanAChunk) {
  Instance buddy(8 * kBlock + 512);
  EXPECT_EQ(buddy.take(1), 0);
  EXPECT_EQ(buddy.take(2 * kBlock), 1);
  EXPECT_EQ(buddy.take(kBlock + 1), static_cast<std::int64_t>(2 * kBlock) + 1);
  EXPECT_EQ(buddy.take(5 * kBlock + 511), -1);
  EXPECT_EQ(buddy.take(5 * kBlock + 509), static_cast<std::int64_t>(3 * kBlock) + 2);
  buddy->verify();
  EXPECT_EQ(buddy.take(1), static_cast<std::int64_t>(8 * kBlock) + 511);
  EXPECT_EQ(buddy.take(1), -1);
  buddy.give(static_cast<std::int64_t>(2 * kBlock) + 1, kBlock + 1, Contents::dirty);
  buddy.give(1, 2 * kBlock, Contents::clean);
  const std::optional<Buddy::Taken> taken = buddy->allocate({3 * kBlock + 1});
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->first.value, 1U);
  EXPECT_TRUE(taken->dirty);
  buddy->verify();
}

TEST(Buddy, AlignsBeyondAChunk) {
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
  const std::int64_t first = buddy.take(4 * kBlock - 7, 1, Buddy::Fit::clean);
  EXPECT_EQ(buddy->allocated().value, 4 * kBlock);
  std::uint64_t held = 4 * kBlock - 7;
  for (const std::uint64_t to :
       {held, 3 * kBlock + 1, 2 * kBlock, kBlock, std::uint64_t{1000}, std::uint64_t{3}, std::uint64_t{1}}) {
    buddy->shrink({static_cast<std::uint32_t>(first)}, {held}, {to}, Contents::dirty);
    held = to;
    buddy->verify();
    EXPECT_EQ(buddy->allocated().value, to);
    EXPECT_EQ(buddy->dirty().value, 4 * kBlock - 7 - to);  // nobody has used what was room
  }
  buddy.give(first, 1, Contents::dirty);
  EXPECT_EQ(buddy->dirty().value, 4 * kBlock - 7);
  EXPECT_EQ(buddy->statistics().free.value, 4 * kBlock);
}

TEST(Buddy, ExtendsIntoItsRoomAndWhatIsFreeBehind) {
  Instance buddy(4 * kBlock + 100);
  const std::int64_t run = buddy.take(5, 1, Buddy::Fit::roomy);
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
  EXPECT_DEATH(buddy.give(run, 7, Contents::clean), "run is not allocated with that size");
  buddy.give(run, 8, Contents::clean);
  EXPECT_DEATH(buddy.give(run, 8, Contents::clean), "run is not allocated with that size");
}

// --- against a model --------------------------------------------------------------------------------------------------

// The reference: who owns every granule, and whether its pages may be resident.
class Model {
 public:
  explicit Model(std::uint64_t granules) : owned_(granules), dirty_(granules) {}

  // The place for it in the shortest dirty stretch that is long enough, of the lowest 64, or the number of granules.
  std::uint64_t dirty_fit(std::uint64_t granules, std::uint64_t alignment) const {
    std::uint64_t best = owned_.size();
    std::uint64_t best_length = owned_.size() + 1;
    unsigned stretches = 0;
    for (std::uint64_t i = 0; i < owned_.size() && stretches < 64; ++i) {
      if (!is_dirty_at(i)) continue;
      const std::uint64_t stretch = i;
      while (is_dirty_at(i)) ++i;
      ++stretches;
      const std::uint64_t start = (stretch + alignment - 1) / alignment * alignment;
      if (start + granules <= i && i - stretch < best_length) {
        best = start;
        best_length = i - stretch;
      }
    }
    return best;
  }
  // Of the places below `frontier` that begin or end with one of the 64 lowest dirty stretches, the first that holds most
  // dirty granules; the number of granules where a 16th at most is dirty, in all less than eight, or the run too long.
  std::uint64_t dirtiest_fit(std::uint64_t granules, std::uint64_t alignment, std::uint64_t frontier) const {
    std::uint64_t best = owned_.size();
    std::uint64_t most = (granules - 1) / 16;
    std::uint64_t all = 0;
    for (std::uint64_t i = 0; i < owned_.size(); ++i) all += is_dirty_at(i);
    if (all < 8 || granules > 512) return best;
    const auto look = [&](std::uint64_t first) {
      if (first + granules > frontier || !is_free(first, granules)) return;
      std::uint64_t dirty = 0;
      for (std::uint64_t i = first; i < first + granules; ++i) dirty += dirty_[i];
      if (dirty > most) best = first;
      most = std::max(most, dirty);
    };
    unsigned stretches = 0;
    for (std::uint64_t i = 0; i < frontier && stretches < 64; ++i) {
      if (!is_dirty_at(i)) continue;
      look((i + alignment - 1) / alignment * alignment);
      while (is_dirty_at(i)) ++i;
      ++stretches;
      if (i >= granules) look((i - granules) / alignment * alignment);
    }
    return best;
  }
  // The lowest place for it, or the number of granules.
  std::uint64_t first_fit(std::uint64_t granules, std::uint64_t alignment) const {
    for (std::uint64_t start = 0; start + granules <= owned_.size(); start += alignment) {
      if (is_free(start, granules)) return start;
    }
    return owned_.size();
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
  bool is_dirty_at(std::uint64_t i) const { return i < owned_.size() && !owned_[i] && dirty_[i]; }

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
    std::uint64_t length;  // with its room
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
      const auto fit =
          random() % 4 == 0 ? (random() % 2 == 0 ? Buddy::Fit::roomy : Buddy::Fit::clean) : Buddy::Fit::tight;
      const std::uint64_t before = buddy->allocated().value;
      const std::uint64_t dirtiest = model.dirtiest_fit(granules, alignment, buddy->statistics().frontier.value);
      const std::optional<Buddy::Taken> taken = buddy->allocate({granules}, {alignment}, fit);
      const std::uint64_t lowest = model.first_fit(granules, alignment);
      ASSERT_EQ(taken.has_value(), lowest != shape.granules) << granules << " aligned to " << alignment;
      if (!taken) continue;
      const std::uint64_t length = buddy->allocated().value - before;
      const std::uint64_t dirty = model.dirty_fit(granules, alignment);
      if (fit != Buddy::Fit::clean && dirty != shape.granules) {
        ASSERT_EQ(taken->first.value, dirty);
      } else if (fit == Buddy::Fit::tight) {
        ASSERT_EQ(taken->first.value, dirtiest != shape.granules ? dirtiest : lowest);
      }
      if (fit == Buddy::Fit::tight) {
        ASSERT_EQ(length, granules);
      }
      ASSERT_EQ(taken->first.value % alignment, 0U);
      ASSERT_LE(taken->first.value + length, shape.granules);
      ASSERT_TRUE(model.is_free(taken->first.value, length));
      ASSERT_EQ(taken->dirty, model.is_dirty(taken->first.value, granules));
      ASSERT_FALSE(model.is_dirty(taken->first.value + granules, length - granules));
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
  // Everything has come together again: one block per bit of the arena's length, and the whole chunks.
  const Buddy::Statistics statistics = buddy->statistics();
  EXPECT_EQ(statistics.allocated.value, 0U);
  EXPECT_EQ(statistics.free, statistics.frontier);
  for (unsigned order = 0; order < Buddy::kMaxOrder; ++order) {
    EXPECT_EQ(statistics.free_runs[order], statistics.frontier.value >> order & 1) << "order " << order;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, BuddyModelTest,
                         testing::Values(Shape{64, 64, 100'000}, Shape{100, 20, 100'000}, Shape{1, 1, 1'000},
                                         Shape{512, 128, 40'000}, Shape{1023, 300, 15'000}, Shape{4096, 1024, 4'000},
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
