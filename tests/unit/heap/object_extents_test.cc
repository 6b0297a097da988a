#include "heap/object_extents.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

constexpr PageCount kMost{16};

class ObjectExtentsTest : public testing::Test {
 protected:
  polder::Run expected(const char* object, std::size_t size) {
    const PageId first = heap_.arena().page_of(object);
    return {first, heap_.arena().page_of(object + size - 1) - first + PageCount{1}};
  }
  polder::Run found(const char* address) { return heap_->objects().pages_of_object(address, kMost); }

  HeapInstance heap_{std::size_t{64} << 20};
};

TEST_F(ObjectExtentsTest, AnyAddressTellsTheWholeObject) {
  const Cache cache(heap_);
  for (const std::size_t size : {16U, 100U, 1000U, 3000U, 4096U, 5000U, 8000U, 10'000U, 16'384U, 40'000U, 65'536U}) {
    std::vector<char*> objects;
    for (int i = 0; i < 40; ++i) objects.push_back(static_cast<char*>(heap_->allocate(cache, size)));
    for (const char* const object : objects) {
      const std::size_t usable = heap_->usable_size(object);
      const polder::Run whole = expected(object, usable);
      for (std::size_t offset = 0; offset < usable; offset += 777) {
        const polder::Run run = found(object + offset);
        ASSERT_EQ(run.first, whole.first) << size << ' ' << offset;
        ASSERT_EQ(run.pages, whole.pages) << size << ' ' << offset;
      }
    }
    for (char* const object : objects) heap_->free(cache, object);
  }
}

TEST_F(ObjectExtentsTest, OfALongSpanAPartThatHasThePage) {
  const Cache cache(heap_);
  constexpr std::size_t kSize = std::size_t{300} << 10;
  auto* const object = static_cast<char*>(heap_->allocate(cache, kSize));
  const polder::Run whole = expected(object, kSize);
  for (std::size_t page = 0; page < kSize / kPageSize; ++page) {
    const char* const address = object + page * kPageSize + 5;
    const polder::Run run = found(address);
    const PageId own = heap_.arena().page_of(address);
    ASSERT_LE(run.pages, kMost);
    ASSERT_GE(run.first, whole.first);
    ASSERT_LE(run.end(), whole.end());
    ASSERT_TRUE(run.first <= own && own < run.end()) << page;
    // From the page on, as far as that goes; how far back a span reaches is not looked for without end.
    if (page <= kMost.value) {
      ASSERT_EQ(run.pages, kMost) << page;
      ASSERT_EQ(run.first, std::min(own, whole.end() - kMost)) << page;
    }
  }
  heap_->free(cache, object);
}

TEST_F(ObjectExtentsTest, WhereNothingIsKnownThePageAlone) {
  const Cache cache(heap_);
  auto* const large = static_cast<char*>(heap_->allocate(cache, std::size_t{2} << 20));
  EXPECT_EQ(found(large + 12'345).pages, PageCount{1});
  auto* const span = static_cast<char*>(heap_->allocate(cache, 40'000));
  auto* const other = static_cast<char*>(heap_->allocate(cache, 40'000));
  heap_->free(cache, span);
  heap_->trim(cache);
  EXPECT_EQ(found(span + 5000).pages, PageCount{1});
  EXPECT_EQ(found(heap_.arena().base() + heap_.arena().size() - 1).pages, PageCount{1});
  heap_->free(cache, other);
  heap_->free(cache, large);
}

}  // namespace
}  // namespace polder
