// Random operations against a model that knows every byte of every object.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

struct Profile {
  const char* name;
  std::size_t arena_mib;
  std::size_t live_bytes;  // the model keeps below
  std::uint64_t capacity;  // pages that the backing has
  bool under_pressure;
  bool cached;
  int steps;  // POLDER_TEST_STEPS_FACTOR multiplies them
  Hardening hardening = Hardening::off;
  bool hopping = false;  // from processor to processor, as one of two threads
};

std::ostream& operator<<(std::ostream& stream, const Profile& profile) { return stream << profile.name; }

// What is dirty decays, and at the same steps in every run.
std::uint64_t passing_clock() {
  static std::uint64_t now = 0;
  return now += 1'000'000;
}

class HeapModelTest : public testing::TestWithParam<Profile> {
 protected:
  struct Object {
    char* memory;
    std::size_t size;
    std::uint64_t seed;
  };

  HeapModelTest()
      : heap_(GetParam().arena_mib << 20, FakeBacking::Memory::real, passing_clock, GetParam().hardening,
              GetParam().hopping ? kHopping : Processors{}),
        random_(static_cast<std::uint64_t>(GetParam().steps)) {
    heap_.backing().set_capacity(GetParam().capacity);
    heap_.backing().set_under_pressure(GetParam().under_pressure);
    if (GetParam().hopping) other_cache_ = heap_->create_cache();
    cache_ = GetParam().cached ? heap_->create_cache() : ThreadCache::empty();
  }

  std::size_t random_size() {
    switch (random_() % 16) {
      case 0:
        return random_() % 32'769;
      case 1:
        return random_() % 256 == 0 ? random_() % (4U << 20) : random_() % 200'000;
      case 2:
        return std::size_t{1} << random_() % 17;
      default:
        return random_() % 1024;
    }
  }

  // An object that has just come from the heap: it overlaps no other.
  void enter(void* pointer, std::size_t size) {
    auto* const memory = static_cast<char*>(pointer);
    const std::size_t usable = heap_->usable_size(memory);
    ASSERT_GE(usable, size);
    ASSERT_TRUE(heap_.arena().contains(memory) && heap_.arena().contains(memory + usable - 1));
    const auto after = ranges_.upper_bound(memory);
    ASSERT_TRUE(after == ranges_.end() || memory + usable <= after->first);
    if (after != ranges_.begin()) {
      const auto before = std::prev(after);
      ASSERT_LE(before->first + before->second, memory);
    }
    ranges_[memory] = usable;
    live_.push_back({memory, size, random_()});
    live_bytes_ += size;
    fill(memory, size, live_.back().seed);
  }
  Object leave(std::size_t index) {
    std::swap(live_[index], live_.back());
    const Object object = live_.back();
    live_.pop_back();
    live_bytes_ -= object.size;
    ranges_.erase(object.memory);
    EXPECT_TRUE(is_filled(object.memory, object.size, object.seed)) << object.size << " bytes";
    return object;
  }

  void allocate() {
    const std::size_t size = random_size();
    const std::uint64_t kind = random_() % 8;
    void* memory;
    if (kind == 0) {
      memory = heap_->allocate_zeroed(cache_, size);
      if (memory != nullptr) {
        for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(static_cast<char*>(memory)[i], 0);
      }
    } else if (kind == 1) {
      const std::size_t alignment = std::size_t{1} << random_() % (random_() % 8 == 0 ? 23 : 13);
      memory = heap_->allocate_aligned(cache_, size, alignment);
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(memory) % alignment, 0U);
    } else {
      memory = heap_->allocate(cache_, size);
    }
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(memory) % 16, 0U);
    if (memory == nullptr) {
      ++refused_;
    } else {
      enter(memory, size);
    }
  }

  void reallocate() {
    const Object object = leave(random_() % live_.size());
    const std::size_t size =
        std::max<std::size_t>(random_() % 2 == 0 ? random_size() : object.size * (random_() % 8) / 4, 1);
    auto* const moved = static_cast<char*>(heap_->reallocate(cache_, object.memory, size));
    char* const memory = moved != nullptr ? moved : object.memory;
    ASSERT_TRUE(is_filled(memory, std::min(size, object.size), object.seed));
    if (moved == nullptr) {
      ++refused_;
      ASSERT_TRUE(is_filled(memory, object.size, object.seed));
    }
    enter(memory, moved != nullptr ? size : object.size);
  }

  HeapInstance heap_;
  std::mt19937_64 random_;
  ThreadCache* cache_;
  ThreadCache* other_cache_ = ThreadCache::empty();
  std::vector<Object> live_;
  std::map<char*, std::size_t> ranges_;
  std::size_t live_bytes_ = 0;
  std::uint64_t refused_ = 0;
};

TEST_P(HeapModelTest, EveryByteStaysWhatItWas) {
  const Profile profile = GetParam();
  const char* const factor = std::getenv("POLDER_TEST_STEPS_FACTOR");
  const int steps = profile.steps * (factor != nullptr ? std::atoi(factor) : 1);
  bool growing = true;
  for (int step = 0; step < steps && !HasFatalFailure(); ++step) {
    if (live_bytes_ > profile.live_bytes) growing = false;
    if (live_bytes_ < profile.live_bytes / 4) growing = true;
    const std::uint64_t action = random_() % 100;
    if (live_.empty() || action < (growing ? 55U : 35U)) {
      allocate();
    } else if (action < 90) {
      heap_->free(cache_, leave(random_() % live_.size()).memory);
    } else if (action < 99 || random_() % 50 != 0) {
      reallocate();
    } else {
      heap_->trim(random_() % 2 == 0 ? cache_ : ThreadCache::empty());
    }
    if (step % (profile.steps / 50) == 0) heap_->verify();
    if (GetParam().capacity < 1'000'000 && step % 1000 == 0) {
      heap_.backing().set_capacity(profile.capacity / 2 + random_() % (profile.capacity / 2));
    }
  }
  EXPECT_EQ(refused_ > 0, profile.capacity < 1'000'000);
  while (!live_.empty()) heap_->free(cache_, leave(live_.size() - 1).memory);
  if (cache_ != ThreadCache::empty()) heap_->destroy_cache(cache_);
  if (other_cache_ != ThreadCache::empty()) heap_->destroy_cache(other_cache_);
  heap_.expect_empty();
}

constexpr std::uint64_t kPlenty = ~std::uint64_t{0};
INSTANTIATE_TEST_SUITE_P(
    Profiles, HeapModelTest,
    testing::Values(Profile{"plenty", 512, 20 << 20, kPlenty, false, true, 150'000},
                    Profile{"few objects", 512, 200'000, kPlenty, false, true, 100'000},
                    Profile{"many processors", 512, 20 << 20, kPlenty, false, true, 100'000, Hardening::off, true},
                    Profile{"many processors, little memory", 512, 30 << 20, 2000, true, true, 100'000, Hardening::off,
                            true},
                    Profile{"pressure", 512, 10 << 20, kPlenty, true, true, 100'000},
                    Profile{"no cache", 512, 10 << 20, kPlenty, false, false, 80'000},
                    Profile{"no memory", 512, 30 << 20, 4000, false, true, 150'000},
                    Profile{"little memory, no cache", 512, 30 << 20, 1000, true, false, 100'000},
                    Profile{"hardened", 512, 20 << 20, kPlenty, false, true, 100'000, Hardening::on},
                    Profile{"hardened, little memory", 512, 30 << 20, 2000, true, false, 80'000, Hardening::on}));

}  // namespace
}  // namespace polder
