#include "heap/slab.h"

#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <random>
#include <set>
#include <vector>

namespace polder {
namespace {

class SlabTest : public testing::TestWithParam<unsigned> {
 protected:
  SlabTest() {
    EXPECT_TRUE(arena_.reserve(Arena::kChunkSize, Arena::kChunkSize, [](std::size_t) { return Arena::Layout{}; }).ok());
    const SizeClass size_class{static_cast<std::uint8_t>(GetParam())};
    memory_.resize(Slab::header_bytes(size_class, Hardening::off) / sizeof(std::uint64_t));
    slab_ = new (memory_.data()) Slab;
    slab_->initialise(size_class, {8}, Hardening::off);
  }

  void give(void* object) {
    const SizeClassInfo& info = info_of(slab_->size_class);
    const auto offset = static_cast<std::uint32_t>(static_cast<char*>(object) - arena_.address(GranuleId{8}));
    const std::uint32_t index = object_index(info, offset);
    ASSERT_EQ(slab_->give(index / 64, std::uint64_t{1} << index % 64), 0U);
  }

  Arena arena_;  // its memory is never touched: it is not even accessible
  std::vector<std::uint64_t> memory_;
  Slab* slab_ = nullptr;
};

TEST_P(SlabTest, HandsOutEveryObjectOnceInAscendingOrder) {
  const SizeClassInfo& info = info_of(slab_->size_class);
  std::vector<void*> objects(info.capacity + 1);
  EXPECT_EQ(slab_->take(arena_, objects.data(), 1), 1U);
  EXPECT_EQ(slab_->take(arena_, objects.data() + 1, info.capacity), info.capacity - 1);
  EXPECT_EQ(slab_->take(arena_, objects.data() + info.capacity, 1), 0U);
  for (std::uint32_t i = 0; i < info.capacity; ++i) {
    ASSERT_EQ(objects[i], arena_.address(GranuleId{8}) + std::size_t{i} * info.size);
  }
  slab_->verify(Hardening::off);
}

TEST_P(SlabTest, AgreesWithTheModel) {
  std::mt19937 random(GetParam());
  std::set<void*> free;
  std::vector<void*> taken;
  const SizeClassInfo& info = info_of(slab_->size_class);
  for (std::uint32_t i = 0; i < info.capacity; ++i) {
    free.insert(arena_.address(GranuleId{8}) + std::size_t{i} * info.size);
  }
  for (int step = 0; step < 2000; ++step) {
    if (random() % 2 == 0) {
      void* objects[16];
      const unsigned wanted = 1 + random() % 16;
      const unsigned count = slab_->take(arena_, objects, wanted);
      ASSERT_EQ(count, std::min<std::size_t>(wanted, free.size()));
      for (unsigned i = 0; i < count; ++i) {
        ASSERT_EQ(objects[i], *free.begin());  // always the lowest
        free.erase(free.begin());
        taken.push_back(objects[i]);
      }
    } else if (!taken.empty()) {
      std::swap(taken[random() % taken.size()], taken.back());
      give(taken.back());
      free.insert(taken.back());
      taken.pop_back();
    }
    ASSERT_EQ(slab_->free, free.size());
    slab_->verify(Hardening::off);
  }
}

TEST_P(SlabTest, SaysWhatWasFreeAlready) {
  void* object = nullptr;
  ASSERT_EQ(slab_->take(arena_, &object, 1), 1U);
  EXPECT_EQ(slab_->give(0, 3), 2U);  // the second object was never taken
  EXPECT_EQ(slab_->free, slab_->capacity - 1);
  EXPECT_EQ(slab_->give(0, 1), 0U);
  EXPECT_EQ(slab_->give(0, 1), 1U);
}

INSTANTIATE_TEST_SUITE_P(Classes, SlabTest, testing::Values(1U, 2U, 3U, 8U, 18U, 25U, 37U, 38U, kSizeClassCount));

}  // namespace
}  // namespace polder
