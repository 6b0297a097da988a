// How much free memory the heap keeps resident.
#include "heap/run_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(RunSource, WhatIsDirtyStaysBelowWhatIsInUse) {
  HeapInstance heap(1024 * kMiB, FakeBacking::Memory::none);
  ThreadCache* const none = ThreadCache::empty();
  std::vector<void*> all;
  for (int i = 0; i < 250; ++i) all.push_back(heap->allocate(none, 2 * kMiB));
  std::size_t used = 500;
  for (void* const run : all) {
    heap->free(none, run);
    used -= 2;
    EXPECT_LE(heap.buddy().dirty().value, std::max<std::size_t>(128, used) * kMiB / kGranuleSize);
  }
  EXPECT_GT(heap.backing().purges(), 0U);
  EXPECT_LT(heap.backing().purges(), 150U);
}

TEST(RunSource, WhatIsResidentStaysNearTheMostThatWasInUse) {
  HeapInstance heap(1024 * kMiB, FakeBacking::Memory::none);
  ThreadCache* const none = ThreadCache::empty();
  // Each time of a length that does not fit where the last one was.
  std::size_t most = 0;
  for (std::size_t length = 1; length < 9; ++length) {
    std::vector<void*> all;
    for (std::size_t i = 0; i < 40 / length; ++i) all.push_back(heap->allocate(none, length * kMiB + 70'000 * length));
    for (std::size_t i = 0; i < all.size(); i += 2) heap->free(none, all[i]);
    for (std::size_t i = 1; i < all.size(); i += 2) heap->free(none, all[i]);
    most = std::max<std::size_t>(most, heap.buddy().dirty().value);
  }
  EXPECT_LE(most, (44 * 9 / 8 + 1) * kMiB / kGranuleSize);
  heap.expect_empty();
}

class Pieces {
 public:
  // Dirty pieces of a MiB, with others in use between them.
  explicit Pieces(HeapInstance& heap) : heap_(heap) {
    for (int i = 0; i < 16; ++i) all_.push_back(heap_->allocate(none_, kMiB));
    for (std::size_t i = 0; i < all_.size(); i += 2) heap_->free(none_, all_[i]);
  }
  ~Pieces() {
    for (std::size_t i = 1; i < all_.size(); i += 2) heap_->free(none_, all_[i]);
  }
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

 private:
  HeapInstance& heap_;
  ThreadCache* const none_ = ThreadCache::empty();
  std::vector<void*> all_;
};

TEST(RunSource, DirtyPiecesFillWhatTheyAreTooSmallFor) {
  HeapInstance heap(256 * kMiB, FakeBacking::Memory::real);
  ThreadCache* const none = ThreadCache::empty();
  {
    const Pieces pieces(heap);
    EXPECT_EQ(heap.buddy().dirty().value, 8 * kMiB / kGranuleSize);
    void* const large = heap->allocate(none, 5 * kMiB);
    EXPECT_EQ(heap.backing().recycled(), 5 * kMiB / kPageSize);
    // The highest tide sank once, by an eighth of the first MiB that came free: too little for a purge.
    EXPECT_EQ(heap.buddy().dirty().value, 3 * kMiB / kGranuleSize);
    // Zeroed, small or very large: as they were.
    void* const zeroed = heap->allocate_zeroed(none, 2 * kMiB);
    void* const very_large = heap->allocate(none, 100 * kMiB);
    EXPECT_EQ(heap.backing().recycled(), 5 * kMiB / kPageSize);
    heap->verify();
    heap->free(none, large);
    heap->free(none, zeroed);
    heap->free(none, very_large);
  }
  heap.expect_empty();
}

TEST(RunSource, WhatCannotMoveStaysDirtyAndIsNotTriedAgainAtOnce) {
  HeapInstance heap(256 * kMiB, FakeBacking::Memory::real);
  heap.backing().refuse_relocation_of_every(1);
  ThreadCache* const none = ThreadCache::empty();
  {
    const Pieces pieces(heap);
    void* const first = heap->allocate(none, kMiB + kMiB / 2);
    EXPECT_GE(heap.buddy().dirty().value, 6 * kMiB / kGranuleSize);
    heap.backing().refuse_relocation_of_every(0);
    void* const second = heap->allocate(none, kMiB + kMiB / 2);
    EXPECT_EQ(heap.backing().recycled(), 0U);
    for (int i = 0; i < 64; ++i) heap->free(none, heap->allocate(none, 128 << 10));
    EXPECT_EQ(heap.backing().recycled(), 0U);
    void* const third = heap->allocate(none, kMiB + kMiB / 2);
    EXPECT_GE(heap.backing().recycled(), kMiB / kPageSize);
    for (void* const each : {first, second, third}) heap->free(none, each);
    heap->verify();
  }
  heap.expect_empty();
}

// Spans of all lengths, one at a time: rarely does one fit where the last ones were. Returns how often it was purged.
std::uint64_t purges_of_spans(HeapInstance& heap, ThreadCache* cache, unsigned spans) {
  const std::uint64_t before = heap.backing().purges();
  std::mt19937 random(1);
  for (unsigned i = 0; i < spans; ++i) {
    heap->free(cache, heap->allocate(cache, 10'000 + random() % 290'000));
  }
  return heap.backing().purges() - before;
}

TEST(RunSource, PurgingThatTakesTimeIsRarerAndAgainWhenItDoesNot) {
  static std::uint64_t now;
  static std::uint64_t step;
  now = 0;
  step = 0;
  HeapInstance heap(256 * kMiB, FakeBacking::Memory::real, [] { return now += step; });
  const Cache cache(heap);
  const std::uint64_t often = purges_of_spans(heap, cache, 1000);
  EXPECT_GT(often, 100U);
  step = 2'000'000;
  static_cast<void>(purges_of_spans(heap, cache, 1000));
  EXPECT_LT(purges_of_spans(heap, cache, 1000), often / 4);
  EXPECT_LE(heap.buddy().dirty().value, 6 * kMiB / kGranuleSize);
  step = 0;
  for (int round = 0; round < 50; ++round) {
    now += 1'000'000'000;
    static_cast<void>(purges_of_spans(heap, cache, 20));
  }
  EXPECT_GT(purges_of_spans(heap, cache, 1000), often / 2);
  heap->trim(cache);
  heap.expect_empty();
}

// Large runs come and go between others, and rarely fit where the last ones were. Only moving takes time.
TEST(RunSource, MovingThatTakesTimeIsRarer) {
  static const FakeBacking* mover;
  static std::uint64_t ns_a_page;
  mover = nullptr;
  ns_a_page = 0;
  HeapInstance heap(1024 * kMiB, FakeBacking::Memory::real,
                    [] { return mover == nullptr ? 1 : 1 + ns_a_page * mover->recycled(); });
  mover = &heap.backing();
  ThreadCache* const none = ThreadCache::empty();
  std::mt19937 random(1);
  std::vector<void*> all(32);
  const auto moved_by = [&](int replacements) {
    const std::uint64_t before = heap.backing().recycled();
    for (int i = 0; i < replacements; ++i) {
      void*& each = all[random() % all.size()];
      if (each != nullptr) heap->free(none, each);
      each = heap->allocate(none, (std::size_t{64} << 10) << random() % 6);
    }
    return heap.backing().recycled() - before;
  };
  static_cast<void>(moved_by(500));
  const std::uint64_t often = moved_by(2000);
  EXPECT_GT(often, 1000U);
  ns_a_page = 100'000;
  static_cast<void>(moved_by(2000));
  EXPECT_LT(moved_by(2000), often / 4);
  for (void* const each : all) heap->free(none, each);
  heap->verify();
  heap.expect_empty();
}

TEST(RunSource, WhatWasDirtyAllTheTimeIsPurgedBitByBit) {
  static std::uint64_t now = 1;
  HeapInstance heap(256 * kMiB, FakeBacking::Memory::real, [] { return now; });
  ThreadCache* const none = ThreadCache::empty();
  const auto dirty = [&] { return heap.buddy().dirty().value * kGranuleSize / kMiB; };
  std::vector<void*> all;
  for (int i = 0; i < 32; ++i) all.push_back(heap->allocate(none, kMiB));
  for (void* const run : all) heap->free(none, run);
  EXPECT_EQ(dirty(), 32U);
  // Needed up to eight at a time: the other 24 are idle.
  for (int round = 0; round < 50; ++round) {
    now += 100'000'000;
    for (int i = 0; i < 8; ++i) all[static_cast<std::size_t>(i)] = heap->allocate(none, kMiB);
    for (int i = 0; i < 8; ++i) heap->free(none, all[static_cast<std::size_t>(i)]);
    if (round == 5) {
      EXPECT_GE(dirty(), 18U);  // half of the 24
      EXPECT_LE(dirty(), 22U);
    }
  }
  EXPECT_GE(dirty(), 8U);
  EXPECT_LE(dirty(), 10U);
  // Nothing needs them: they go, but for what is not worth a system call.
  for (int round = 0; round < 20; ++round) {
    now += 1'000'000'000;
    heap->free(none, heap->allocate(none, 64));
  }
  EXPECT_LE(dirty(), 1U);
  heap.expect_empty();
}

}  // namespace
}  // namespace polder
