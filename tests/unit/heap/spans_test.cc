#include "heap/spans.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

TEST(SpanBits, RangesAndSearchesAgreeWithASet) {
  std::mt19937 random(1);
  SpanBits bits;
  std::set<unsigned> model;
  for (int step = 0; step < 2000; ++step) {
    const auto first = static_cast<unsigned>(random() % SpanBits::kCount);
    const auto count = static_cast<unsigned>(random() % (SpanBits::kCount - first + 1));
    if (random() % 2 == 0) {
      bits.set(first, count);
      for (unsigned i = first; i < first + count; ++i) model.insert(i);
    } else {
      bits.clear(first, count);
      for (unsigned i = first; i < first + count; ++i) model.erase(i);
    }
    ASSERT_EQ(bits.population(), model.size());
    const auto from = static_cast<unsigned>(random() % (SpanBits::kCount + 1));
    const auto set = model.lower_bound(from);
    ASSERT_EQ(bits.next_set(from), set == model.end() ? SpanBits::kCount : *set);
    unsigned clear = from;
    while (clear < SpanBits::kCount && model.count(clear) != 0) ++clear;
    ASSERT_EQ(bits.next_clear(from), clear);
    if (from < SpanBits::kCount) {
      ASSERT_EQ(bits.test(from), model.count(from) != 0);
    }
  }
}

class SpansTest : public testing::Test {
 protected:
  static constexpr std::size_t kSize = 20 * kPageSize;

  char* allocate(std::size_t pages) {
    return static_cast<char*>(heap_->allocate(ThreadCache::empty(), pages * kPageSize));
  }
  void free(void* span) { heap_->free(ThreadCache::empty(), span); }
  void* resize(void* span, std::size_t pages) {
    return heap_->reallocate(ThreadCache::empty(), span, pages * kPageSize);
  }

  HeapInstance heap_{256 << 20};
};

TEST_F(SpansTest, LieSideBySideAndGoBackAsAWhole) {
  std::vector<char*> all;
  for (std::size_t pages = 9; pages < 30; ++pages) all.push_back(allocate(pages));
  std::size_t pages = 9;
  for (std::size_t i = 0; i + 1 < all.size(); ++i, ++pages) EXPECT_EQ(all[i] + pages * kPageSize, all[i + 1]);
  EXPECT_EQ(heap_.buddy().allocated().value, kGranulesPerBlock);
  EXPECT_EQ(heap_.backing().provided(), (9U + 29U) * 21U / 2U);  // no more than was asked for
  heap_->verify();
  for (char* const span : all) free(span);
  EXPECT_EQ(heap_.buddy().allocated().value, 0U);
  heap_.expect_empty();
}

TEST_F(SpansTest, OnlyWhatWasUsedOfABlockIsDirtyAfterwards) {
  char* const low = allocate(20);
  char* const middle = allocate(100);
  char* const high = allocate(8);
  free(middle);
  static_cast<void>(heap_->free_pages().purge_dirty({100}));
  free(low);
  free(high);
  EXPECT_EQ(heap_.buddy().allocated().value, 0U);
  EXPECT_EQ(heap_.buddy().dirty().value, 4U);  // pages 0 to 19 and 120 to 127 of the block
  char* const again = allocate(5);
  EXPECT_EQ(again, low);
  EXPECT_EQ(heap_->free_pages().dirty().value, 4U * kPagesPerGranule - 5);
  free(again);
  heap_.expect_empty();
}

TEST_F(SpansTest, TakeTheShortestGapThatIsLongEnough) {
  std::vector<char*> all;
  for (int i = 0; i < 12; ++i) all.push_back(allocate(20));
  free(all[1]);
  free(all[2]);
  free(all[5]);
  free(all[8]);
  free(all[9]);
  free(all[10]);
  EXPECT_EQ(allocate(15), all[5]);
  EXPECT_EQ(allocate(30), all[1]);
  EXPECT_EQ(allocate(10), all[1] + 30 * kPageSize);
  EXPECT_EQ(allocate(45), all[8]);
  heap_->verify();
}

TEST_F(SpansTest, AlignedOnesLieSideBySideToo) {
  ThreadCache* const none = ThreadCache::empty();
  for (const std::size_t alignment : {16U << 10, 32U << 10}) {
    SCOPED_TRACE(alignment);
    const std::size_t in_a_block = kPagesPerBlock * kPageSize / alignment;
    std::vector<void*> all;
    for (std::size_t i = 0; i < 2 * in_a_block; ++i) all.push_back(heap_->allocate_aligned(none, alignment, alignment));
    EXPECT_EQ(heap_.buddy().allocated().value, 2 * kGranulesPerBlock);
    for (void* const each : all) EXPECT_EQ(reinterpret_cast<std::uintptr_t>(each) % alignment, 0U);
    // Also where each fits into a hole only.
    for (std::size_t i = 0; i < all.size(); i += 2) heap_->free(none, all[i]);
    for (std::size_t i = 0; i < all.size(); i += 2) all[i] = heap_->allocate_aligned(none, alignment, alignment);
    EXPECT_EQ(heap_.buddy().allocated().value, 2 * kGranulesPerBlock);
    heap_->verify();
    for (void* const each : all) heap_->free(none, each);
    heap_.expect_empty();
  }
}

TEST_F(SpansTest, AlignedOnesFindRoomBehindOthers) {
  ThreadCache* const none = ThreadCache::empty();
  char* const first = allocate(11);
  auto* const aligned = static_cast<char*>(heap_->allocate_aligned(none, 5 * kPageSize, 4 * kPageSize));
  EXPECT_EQ(aligned, first + 12 * kPageSize);
  EXPECT_EQ(heap_->usable_size(aligned), 5 * kPageSize);
  EXPECT_EQ(heap_->allocate_aligned(none, 100, 8 * kPageSize), first + 24 * kPageSize);
  heap_->verify();
}

TEST_F(SpansTest, FullBlocksFillUpFirst) {
  // A block with a gap of 40 pages and one with nearly nothing in it.
  char* const gap = allocate(40);
  std::vector<char*> all;
  for (int i = 0; i < 4; ++i) all.push_back(allocate(118));
  char* const other = allocate(100);
  EXPECT_EQ(heap_.buddy().allocated().value, 2 * kGranulesPerBlock);
  free(gap);
  EXPECT_EQ(allocate(30), gap);
  free(other);
  EXPECT_EQ(heap_.buddy().allocated().value, kGranulesPerBlock);
}

TEST_F(SpansTest, GrowWhereTheyAreWhileThatIsFree) {
  char* const span = allocate(20);
  fill(span, kSize, 1);
  EXPECT_EQ(resize(span, 100), span);
  EXPECT_EQ(heap_->usable_size(span), 100 * kPageSize);
  char* const wall = allocate(10);
  EXPECT_EQ(wall, span + 100 * kPageSize);
  EXPECT_EQ(resize(span, 99), span);  // too little to give up
  EXPECT_EQ(heap_->usable_size(span), 100 * kPageSize);
  EXPECT_EQ(resize(span, 50), span);
  EXPECT_EQ(heap_->usable_size(span), 50 * kPageSize);
  EXPECT_EQ(allocate(50), span + 50 * kPageSize);
  heap_->verify();
  void* const moved = resize(span, 60);
  EXPECT_NE(moved, span);
  EXPECT_TRUE(is_filled(moved, kSize, 1));
  void* const large = resize(moved, 300);
  EXPECT_TRUE(is_filled(large, kSize, 1));
  heap_->verify();
}

TEST_F(SpansTest, AreZeroedWhenAskedFor) {
  char* const dirty = allocate(20);
  std::memset(dirty, 1, kSize);
  free(dirty);
  auto* const clean = static_cast<char*>(heap_->allocate_zeroed(ThreadCache::empty(), kSize + kPageSize));
  EXPECT_EQ(clean, dirty);
  for (std::size_t i = 0; i < kSize + kPageSize; ++i) ASSERT_EQ(clean[i], 0) << i;
}

TEST_F(SpansTest, WithoutMemoryNothingChanges) {
  char* const span = allocate(20);
  fill(span, kSize, 1);
  heap_.backing().set_capacity(25);
  EXPECT_EQ(allocate(6), nullptr);
  EXPECT_EQ(resize(span, 26), nullptr);
  EXPECT_EQ(heap_->usable_size(span), kSize);
  EXPECT_TRUE(is_filled(span, kSize, 1));
  heap_->verify();
  EXPECT_EQ(resize(span, 25), span);
  free(span);
  heap_.expect_empty();
}

TEST_F(SpansTest, TheirFreePagesArePurged) {
  char* const first = allocate(100);
  char* const second = allocate(100);
  char* const third = allocate(100);
  free(first);
  free(third);
  EXPECT_EQ(heap_.backing().dirty(), 200U);
  heap_->verify();
  EXPECT_EQ(heap_->trim().value, 25U);  // 200 pages
  EXPECT_EQ(heap_.backing().dirty(), 0U);
  heap_->verify();
  EXPECT_EQ(allocate(100), first);
  free(first);
  free(second);
  heap_.expect_empty();
}

TEST_F(SpansTest, MisuseIsReported) {
  char* const first = allocate(20);
  char* const second = allocate(20);
  EXPECT_DEATH(free(first + kPageSize), "free of 0x.* not the start of an allocation");
  EXPECT_DEATH(free(first + 1), "free of 0x.* not the start of an allocation");
  EXPECT_DEATH((void)resize(first + kPageSize, 1), "realloc of 0x.* not the start");
  EXPECT_DEATH((void)heap_->usable_size(first + 16), "malloc_usable_size of 0x.* not the start");
  free(first);
  EXPECT_DEATH(free(first), "double free");
  free(second);
  EXPECT_DEATH(free(second), "double free");
}

// In units of less than a page: pages have several owners.
class SmallSpansTest : public SpansTest {
 protected:
  static constexpr std::size_t kKib = 1024;

  char* allocate(std::size_t kib) { return static_cast<char*>(heap_->allocate(ThreadCache::empty(), kib * kKib)); }
  void* resize(void* span, std::size_t kib) { return heap_->reallocate(ThreadCache::empty(), span, kib * kKib); }
};

TEST_F(SmallSpansTest, LieSideBySideAndGoBackAsAWhole) {
  std::vector<char*> all;
  std::size_t sum = 0;
  for (std::size_t kib = 9; kib <= 20; ++kib) {
    all.push_back(allocate(kib));
    EXPECT_EQ(all.back(), all[0] + sum * kKib);
    EXPECT_EQ(heap_->usable_size(all.back()), kib * kKib);
    sum += kib;
    EXPECT_EQ(heap_.backing().provided(), pages_up(sum * kKib).value);
  }
  EXPECT_EQ(heap_->usable_size(heap_->allocate(ThreadCache::empty(), 8 * kKib + 1)), 8 * kKib + kKib / 2);
  EXPECT_EQ(heap_.buddy().allocated().value, SpanBits::kCount * kSmallSpans.size() / kGranuleSize);
  heap_->verify();
}

TEST_F(SmallSpansTest, PagesGoWithTheLastThatIsInThem) {
  char* const first = allocate(9);
  char* const second = allocate(9);
  char* const third = allocate(10);
  EXPECT_EQ(heap_.backing().provided(), 7U);
  free(second);  // KiB 9 to 18: only the page at 12 is its own
  EXPECT_EQ(heap_.backing().provided(), 6U);
  EXPECT_EQ(heap_->free_pages().dirty().value, 1U);
  heap_->verify();
  free(first);
  EXPECT_EQ(heap_.backing().provided(), 3U);
  EXPECT_EQ(heap_->free_pages().dirty().value, 4U);
  heap_->verify();
  EXPECT_EQ(heap_->free_pages().purge_dirty({100}).pages.value, 4U);
  char* const again = allocate(18);
  EXPECT_EQ(again, first);
  EXPECT_EQ(heap_.backing().provided(), 7U);
  free(third);
  free(again);
  heap_.expect_empty();
}

TEST_F(SmallSpansTest, AreZeroedAlsoWhereOthersWere) {
  ThreadCache* const none = ThreadCache::empty();
  char* const first = allocate(9);
  char* const second = allocate(9);
  char* const third = allocate(9);
  for (char* const each : {first, second, third}) std::memset(each, 0xEE, 9 * kKib);
  free(second);
  static_cast<void>(heap_->free_pages().purge_dirty({100}));
  auto* const zeroed = static_cast<char*>(heap_->allocate_zeroed(none, 9 * kKib - 1));
  ASSERT_EQ(zeroed, second);
  for (std::size_t at = 0; at < 9 * kKib - 1; ++at) ASSERT_EQ(zeroed[at], 0) << at;
  for (std::size_t at = 0; at < 9 * kKib; ++at) {
    ASSERT_EQ(first[at], static_cast<char>(0xEE));
    ASSERT_EQ(third[at], static_cast<char>(0xEE));
  }
}

TEST_F(SmallSpansTest, GrowAndShrinkWithinAPage) {
  char* const span = allocate(9);
  fill(span, 9 * kKib, 1);
  EXPECT_EQ(resize(span, 11), span);
  EXPECT_EQ(heap_.backing().provided(), 3U);
  EXPECT_EQ(resize(span, 14), span);
  EXPECT_EQ(heap_.backing().provided(), 4U);
  char* const wall = allocate(9);
  EXPECT_EQ(wall, span + 14 * kKib);
  heap_->verify();
  EXPECT_EQ(resize(span, 12), span);
  EXPECT_EQ(heap_->usable_size(span), 12 * kKib);
  EXPECT_EQ(heap_.backing().provided(), 6U);  // the page of the two KiB is the wall's too
  free(wall);
  EXPECT_EQ(heap_.backing().provided(), 3U);
  EXPECT_TRUE(is_filled(span, 9 * kKib, 1));
  EXPECT_EQ(resize(span, 32), span);
  void* const moved = resize(span, 33);  // in pages
  EXPECT_TRUE(is_filled(moved, 9 * kKib, 1));
  EXPECT_EQ(heap_->usable_size(moved), 36 * kKib);
  heap_->verify();
  free(moved);
  heap_.expect_empty();
}

TEST_F(SmallSpansTest, WithoutMemoryNothingChanges) {
  char* const first = allocate(9);
  char* const second = allocate(9);
  fill(first, 9 * kKib, 1);
  fill(second, 9 * kKib, 2);
  heap_.backing().set_capacity(6);
  EXPECT_EQ(allocate(15), nullptr);
  EXPECT_EQ(resize(second, 16), nullptr);
  EXPECT_EQ(heap_->usable_size(second), 9 * kKib);
  heap_->verify();
  EXPECT_EQ(resize(second, 11), second);
  EXPECT_TRUE(is_filled(first, 9 * kKib, 1));
  EXPECT_TRUE(is_filled(second, 9 * kKib, 2));
  free(first);
  free(second);
  heap_.expect_empty();
}

TEST_F(SmallSpansTest, AlignedToPagesTheyAreInPages) {
  ThreadCache* const none = ThreadCache::empty();
  char* const small = allocate(9);
  auto* const aligned = static_cast<char*>(heap_->allocate_aligned(none, 9 * kKib, kPageSize));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(aligned) % kPageSize, 0U);
  EXPECT_EQ(heap_->usable_size(aligned), 12 * kKib);
  EXPECT_EQ(heap_->allocate_aligned(none, 9 * kKib, 2 * kKib), small + 10 * kKib);
  EXPECT_EQ(heap_->allocate(none, 5 * kKib + 1), small + 19 * kKib);
  const Cache cache(heap_);
  char* const kept = allocate(12);
  ASSERT_NE(reinterpret_cast<std::uintptr_t>(kept) % kPageSize, 0U);
  heap_->free(cache, kept);
  auto* const other = static_cast<char*>(heap_->allocate_aligned(cache, 12 * kKib, kPageSize));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(other) % kPageSize, 0U) << "a kept span is not aligned";
  heap_->verify();
}

TEST_F(SmallSpansTest, MisuseIsReported) {
  char* const first = allocate(9);
  char* const second = allocate(9);
  EXPECT_DEATH(free(first + kKib), "free of 0x.* not the start of an allocation");
  EXPECT_DEATH(free(second + 16), "free of 0x.* not the start of an allocation");
  EXPECT_DEATH((void)heap_->usable_size(second + kKib), "malloc_usable_size of 0x.* not the start");
  free(first);
  EXPECT_DEATH(free(first), "double free");
  free(second);
  EXPECT_DEATH(free(second), "double free");
}

// What a thread frees it may have again, without the lock that all threads share.
class KeptSpansTest : public SpansTest {
 protected:
  char* allocate(const Cache& cache, std::size_t pages) {
    return static_cast<char*>(heap_->allocate(cache, pages * kPageSize));
  }
  std::uint64_t pages_in_use() {
    Heap::Statistics statistics;
    heap_->statistics(statistics);
    return statistics.large_pages.value;
  }
};

TEST_F(KeptSpansTest, ComeBackToTheirThread) {
  const Cache cache(heap_);
  const Cache other(heap_);
  char* const span = allocate(cache, 10);
  heap_->free(cache, span);
  heap_->verify();
  EXPECT_EQ(pages_in_use(), 10U);
  EXPECT_NE(allocate(other, 10), span);
  EXPECT_EQ(allocate(cache, 10), span);
  heap_->free(other, span);
  EXPECT_EQ(heap_->allocate(other, 9 * kPageSize + 1), span);
  heap_->verify();
}

TEST_F(KeptSpansTest, ServeWhatWastesAtMostAnEighth) {
  const Cache cache(heap_);
  char* const span = allocate(cache, 16);
  heap_->free(cache, span);
  EXPECT_NE(allocate(cache, 17), span);
  EXPECT_NE(allocate(cache, 13), span);
  EXPECT_EQ(allocate(cache, 14), span);
  EXPECT_EQ(heap_->usable_size(span), 16 * kPageSize);
}

TEST_F(KeptSpansTest, AreZeroWhereThatIsAskedFor) {
  const Cache cache(heap_);
  char* const span = allocate(cache, 10);
  std::memset(span, 1, 10 * kPageSize);
  heap_->free(cache, span);
  ASSERT_EQ(heap_->allocate_zeroed(cache, 10 * kPageSize), span);
  for (std::size_t i = 0; i < 10 * kPageSize; ++i) ASSERT_EQ(span[i], 0) << i;
}

TEST_F(KeptSpansTest, GoBackWithTheirThreadAndAtTrim) {
  {
    const Cache cache(heap_);
    heap_->free(cache, allocate(cache, 10));
    EXPECT_EQ(pages_in_use(), 10U);
    heap_->trim(cache);
    EXPECT_EQ(pages_in_use(), 0U);
    heap_->free(cache, allocate(cache, 10));
  }
  heap_.expect_empty();
}

TEST_F(KeptSpansTest, AreFew) {
  const Cache cache(heap_);
  std::vector<char*> spans;
  for (int i = 0; i < 200; ++i) spans.push_back(allocate(cache, 5));
  for (char* const span : spans) {
    heap_->free(cache, span);
    heap_->verify();
  }
  EXPECT_LE(pages_in_use(), 16U);
  // A long one alone, but no more than an eighth of what is in use.
  heap_->trim(cache);
  for (char*& span : spans) span = allocate(cache, 100);
  const std::uint64_t all = pages_in_use();
  heap_->free(cache, spans[0]);
  EXPECT_EQ(pages_in_use(), all);
  heap_->free(cache, spans[1]);
  EXPECT_EQ(pages_in_use(), all - 100);
}

TEST_F(KeptSpansTest, MakeRoomBeforeNull) {
  const Cache cache(heap_);
  heap_.backing().set_capacity(200);
  heap_->free(cache, allocate(cache, 16));
  char* const all = allocate(cache, 128);
  char* const rest = allocate(cache, 70);
  EXPECT_NE(all, nullptr);
  EXPECT_NE(rest, nullptr);
  heap_->free(cache, rest);
  heap_->free(cache, allocate(cache, 16));
  for (int i = 0; i < 16; ++i) EXPECT_NE(heap_->allocate(cache, 8'000), nullptr);
}

TEST_F(KeptSpansTest, UnderPressureAreNone) {
  heap_.backing().set_under_pressure(true);
  const Cache cache(heap_);
  heap_->free(cache, allocate(cache, 10));
  EXPECT_EQ(pages_in_use(), 0U);
}

TEST_F(KeptSpansTest, FromBeforeThePressureAreNotReused) {
  const Cache cache(heap_);
  heap_->free(cache, allocate(cache, 10));
  EXPECT_EQ(pages_in_use(), 10U);
  heap_.backing().set_under_pressure(true);
  static_cast<void>(allocate(cache, 12));
  EXPECT_EQ(pages_in_use(), 12U);
}

TEST_F(KeptSpansTest, AreNoneAfterTheLimitWasLiftedEither) {
  const Cache cache(heap_);
  heap_.backing().set_under_pressure(true);
  heap_.backing().set_under_pressure(false);
  heap_->free(cache, allocate(cache, 10));
  EXPECT_EQ(pages_in_use(), 0U);
}

TEST_F(KeptSpansTest, GoBackWhenTheThreadGoesOnWithOthers) {
  const Cache cache(heap_);
  heap_->free(cache, allocate(cache, 16));
  std::vector<void*> objects;
  for (int i = 0; i < 2000; ++i) objects.push_back(heap_->allocate(cache, 4000));
  EXPECT_EQ(pages_in_use(), 0U);
  for (void* const object : objects) heap_->free(cache, object);
}

TEST_F(KeptSpansTest, AreNoLongerTheProgramsToUse) {
  const Cache cache(heap_);
  const Cache other(heap_);
  char* const span = allocate(cache, 10);
  heap_->free(cache, span);
  EXPECT_DEATH(heap_->free(cache, span), "double free");
  EXPECT_DEATH(heap_->free(other, span), "double free");
  EXPECT_DEATH(heap_->free(ThreadCache::empty(), span), "double free");
  EXPECT_DEATH(heap_->usable_size(span), "double free");
  EXPECT_DEATH(heap_->reallocate(cache, span, 100'000), "double free");
  EXPECT_DEATH(heap_->free(cache, span + kPageSize), "free");
  EXPECT_DEATH(heap_->free(cache, span + 16), "free");
}

}  // namespace
}  // namespace polder
