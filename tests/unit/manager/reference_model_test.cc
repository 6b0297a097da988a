// Eight threads of random operations against a reference model that knows which byte belongs to whom, with memory to spare
// and paging, while the heap's invariants are walked again and again.
//
//   POLDER_MODEL_SECONDS   how long each of the tests runs (3)
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "unit/manager/manager_fixture.h"

namespace polder {
namespace {

constexpr unsigned kThreads = 8;
constexpr std::size_t kShared = 512;
constexpr std::size_t kArena = std::size_t{8} << 30;  // what is free is scattered after a while
constexpr std::size_t kLargest = std::size_t{6} << 20;

unsigned seconds() {
  const char* const text = std::getenv("POLDER_MODEL_SECONDS");
  return text != nullptr ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : 3;
}

std::uint64_t word_of(std::uint64_t seed, std::size_t index) {
  return (seed + index) * 0x9E37'79B9'7F4A'7C15U ^ (seed >> 7);
}

struct Object {
  unsigned char* memory = nullptr;
  std::size_t size = 0;
  std::uint64_t seed = 0;

  void fill() const {
    for (std::size_t at = 0; at < size; at += 8) {
      const std::uint64_t word = word_of(seed, at);
      std::memcpy(memory + at, &word, std::min<std::size_t>(8, size - at));
    }
  }
  bool is_right(std::size_t length) const {
    for (std::size_t at = 0; at < length; at += 8) {
      const std::uint64_t word = word_of(seed, at);
      if (std::memcmp(memory + at, &word, std::min<std::size_t>(8, length - at)) != 0) return false;
    }
    return true;
  }
};

// Whose bytes are whose: every object that is in use, from its first to its last usable byte.
class Reference {
 public:
  bool enter(const void* memory, std::size_t usable) {
    const auto begin = reinterpret_cast<std::uintptr_t>(memory);
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto after = ranges_.lower_bound(begin);
    if (after != ranges_.end() && after->first < begin + usable) return false;
    if (after != ranges_.begin() && std::prev(after)->second > begin) return false;
    ranges_.emplace_hint(after, begin, begin + usable);
    return true;
  }
  bool leave(const void* memory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ranges_.erase(reinterpret_cast<std::uintptr_t>(memory)) == 1;
  }
  bool empty() const { return ranges_.empty(); }

 private:
  std::mutex mutex_;
  std::map<std::uintptr_t, std::uintptr_t> ranges_;
};

class ReferenceModelTest : public ManagerFixture {
 protected:
  struct Slot {
    std::mutex mutex;
    Object object;
  };

  enum class Until { time_is_up, pages_were_evicted };

  // Each thread keeps up to `live` bytes, and half as many again are in the shared slots. For seconds(), or longer where
  // the machine is slow and that is not enough for what is to be tested.
  void run(std::size_t live, Until until) {
    alarm(seconds() + kWatchdogSeconds);
    std::vector<std::thread> threads;
    for (unsigned index = 0; index < kThreads; ++index) {
      threads.emplace_back([this, index, live] { work(index, live); });
    }
    const std::uint64_t end = os::monotonic_ns() + seconds() * std::uint64_t{1'000'000'000};
    const std::uint64_t last = end + std::uint64_t{kWatchdogSeconds / 2} * 1'000'000'000;
    const auto is_enough = [&] {
      const std::uint64_t now = os::monotonic_ns();
      return now >= end && (until == Until::time_is_up || evictions() > 0 || now >= last);
    };
    while (!is_enough() && wrong_.load() == nullptr) {
      manager_->verify();
      ++walks_;
      os::sleep_ms(20);
    }
    stop_.store(true);
    for (std::thread& thread : threads) thread.join();
    for (Slot& slot : shared_) release(manager_->heap(), cache_, slot.object);
    manager_->verify();
    EXPECT_EQ(wrong_.load(), nullptr) << wrong_.load();
    EXPECT_TRUE(reference_.empty());
    EXPECT_GT(operations_.load(), 1000U);
    EXPECT_GT(walks_, 1U);
    if (until == Until::pages_were_evicted) {
      EXPECT_GT(evictions(), 0U);
    }
  }

 private:
  std::uint64_t evictions() const { return manager_->statistics().reclaim.evictions.load(); }

  void require(bool condition, const char* what) {
    if (!condition) wrong_.store(what);
  }

  static std::size_t random_size(std::mt19937_64& random) {
    const std::uint64_t luck = random() % 1000;
    if (luck == 0) return random() % (std::size_t{3} << 20);
    if (luck < 20) return random() % (std::size_t{300} << 10);
    if (luck < 100) return random() % (std::size_t{20} << 10);
    return random() % 800;
  }

  // An object that has just come from the heap.
  Object adopt(Heap& heap, void* memory, std::size_t size, std::uint64_t seed) {
    const std::size_t usable = heap.usable_size(memory);
    require(usable >= size, "an object is smaller than what was asked for");
    require(reference_.enter(memory, usable), "an object overlaps another");
    const Object object{static_cast<unsigned char*>(memory), size, seed};
    object.fill();
    return object;
  }

  Object create(Heap& heap, ThreadCache* cache, std::mt19937_64& random) {
    const std::size_t size = random_size(random);
    void* memory = nullptr;
    switch (random() % 8) {
      case 0: {
        memory = heap.allocate_zeroed(cache, size);
        const auto* const bytes = static_cast<const unsigned char*>(memory);
        require(memory == nullptr || std::all_of(bytes, bytes + size, [](unsigned char byte) { return byte == 0; }),
                "zeroed memory is not zero");
        break;
      }
      case 1: {
        const std::size_t alignment = std::size_t{16} << random() % 13;
        memory = heap.allocate_aligned(cache, size, alignment);
        require(reinterpret_cast<std::uintptr_t>(memory) % alignment == 0, "memory is not aligned");
        break;
      }
      default:
        memory = heap.allocate(cache, size);
    }
    require(memory != nullptr, "memory was refused");
    return memory == nullptr ? Object{} : adopt(heap, memory, size, random());
  }

  void release(Heap& heap, ThreadCache* cache, Object& object) {
    if (object.memory == nullptr) return;
    require(object.is_right(object.size), "a byte of an object is not what it was");
    require(reference_.leave(object.memory), "an object was not in use");
    heap.free(cache, object.memory);
    object = {};
  }

  void resize(Heap& heap, ThreadCache* cache, Object& object, std::mt19937_64& random) {
    const std::size_t size = random() % 2 == 0 ? random_size(random) : object.size * (random() % 8) / 4;
    return resize(heap, cache, object, std::clamp<std::size_t>(size, 1, kLargest), random());
  }

  void resize(Heap& heap, ThreadCache* cache, Object& object, std::size_t size, std::uint64_t seed) {
    require(reference_.leave(object.memory), "an object was not in use");
    void* const memory = heap.reallocate(cache, object.memory, size);
    require(memory != nullptr, "growth was refused");
    if (memory == nullptr) return;
    const Object kept{static_cast<unsigned char*>(memory), size, object.seed};
    require(kept.is_right(std::min(size, object.size)), "a byte was lost by growth");
    object = adopt(heap, memory, size, seed);
  }

  void work(unsigned index, std::size_t live) {
    Heap& heap = manager_->heap();
    ThreadCache* const cache = heap.create_cache();
    std::mt19937_64 random(index);
    std::vector<Object> own;
    std::size_t held = 0;
    std::uint64_t operations = 0;
    while (!stop_.load(std::memory_order_relaxed) && wrong_.load(std::memory_order_relaxed) == nullptr) {
      const std::uint64_t action = random() % 100;
      if (own.empty() || (action < 50 && held < live)) {
        own.push_back(create(heap, cache, random));
        held += own.back().size;
      } else {
        std::swap(own[random() % own.size()], own.back());
        held -= own.back().size;
        if (action < 85) {
          release(heap, cache, own.back());
        } else if (action < 95) {
          resize(heap, cache, own.back(), random);
          held += own.back().size;
        } else {
          // What is not put there is taken from there.
          Slot& slot = shared_[random() % kShared];
          const std::lock_guard<std::mutex> lock(slot.mutex);
          std::swap(slot.object, own.back());
          held += own.back().size;
        }
        if (own.back().memory == nullptr) own.pop_back();
      }
      if (++operations % 5000 == 0) heap.trim(cache);
    }
    for (Object& object : own) release(heap, cache, object);
    heap.destroy_cache(cache);
    operations_.fetch_add(operations, std::memory_order_relaxed);
  }

  Reference reference_;
  std::array<Slot, kShared> shared_;
  std::atomic<bool> stop_{false};
  std::atomic<const char*> wrong_{nullptr};
  std::atomic<std::uint64_t> operations_{0};
  unsigned walks_ = 0;
};

TEST_P(ReferenceModelTest, WithMemoryToSpare) {
  start(0, 512 * kMiB, kArena);
  run(std::size_t{24} << 20, Until::time_is_up);  // so much that there are huge pages
}

TEST_P(ReferenceModelTest, Paging) {
  start(48 * kMiB, 1024 * kMiB, kArena);
  run(std::size_t{8} << 20, Until::pages_were_evicted);
}

TEST_P(ReferenceModelTest, HardenedAndPaging) {
  start(48 * kMiB, 1024 * kMiB, kArena, Hardening::on);
  run(std::size_t{8} << 20, Until::pages_were_evicted);
}

INSTANTIATE_TEST_SUITE_P(Backends, ReferenceModelTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder
