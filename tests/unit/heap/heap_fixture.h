// A heap of its own over a small arena and a fake backing.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "heap/heap.h"
#include "os/thread.h"
#include "unit/heap/fake_backing.h"
#include "vm/budget.h"

namespace polder {

inline const bool kHeapSinkInstalled = (os::install_message_sink(), true);

// Every refill is on another processor than the one before.
inline constexpr Processors kHopping{.limit = [] { return 5U; },
                                     .current =
                                         [] {
                                           static thread_local unsigned hops = 0;
                                           return hops++ * 7;
                                         }};

// No time passes: nothing decays, however slow the machine is.
inline std::uint64_t frozen_clock() { return 1; }

class HeapInstance {
 public:
  static constexpr std::size_t kPoolSize = std::size_t{32} << 20;

  explicit HeapInstance(std::size_t arena_size, FakeBacking::Memory memory = FakeBacking::Memory::real,
                        RunSource::Clock clock = frozen_clock, Hardening hardening = Hardening::off,
                        const Processors& processors = {}) {
    EXPECT_TRUE(arena_.reserve(arena_size, arena_size, layout).ok());
    space_ = std::make_unique<MetadataSpace>(arena_.metadata(), arena_.metadata_size());
    const GranuleCount granules{arena_.size() >> kGranuleShift};
    buddy_ = std::make_unique<Buddy>(*space_, granules);
    pool_ = std::make_unique<MetadataPool>(space_->take(kPoolSize), kPoolSize, budget_);
    backing_ = std::make_unique<FakeBacking>(arena_, memory);
    heap_ = std::make_unique<Heap>(arena_, *buddy_, *backing_, *pool_, *space_, hardening, clock, processors);
  }

  Heap* operator->() { return heap_.get(); }
  Heap& heap() { return *heap_; }
  Arena& arena() { return arena_; }
  Buddy& buddy() { return *buddy_; }
  MetadataPool& pool() { return *pool_; }
  FakeBacking& backing() { return *backing_; }

  // Nothing is in use and nothing was lost: after trim(), every granule and every page is back.
  void expect_empty() {
    heap_->trim();
    heap_->verify();
    EXPECT_EQ(buddy_->allocated().value, 0U);
    EXPECT_EQ(buddy_->dirty().value, 0U);
    EXPECT_EQ(backing_->provided(), 0U);
    EXPECT_EQ(backing_->dirty(), 0U);
    Heap::Statistics statistics;
    heap_->statistics(statistics);
    EXPECT_EQ(statistics.small_bytes, 0U);
    EXPECT_EQ(statistics.slab_pages.value, 0U);
    EXPECT_EQ(statistics.large_runs, 0U);
    EXPECT_EQ(statistics.large_pages.value, 0U);
  }

 private:
  static Arena::Layout layout(std::size_t arena_size) {
    const GranuleCount granules{arena_size >> kGranuleShift};
    return {.metadata = Heap::metadata_bytes(granules) + Buddy::metadata_bytes(granules) + kPoolSize, .staging = 0};
  }

  Arena arena_;
  Budget budget_{Budget::kUnlimited};
  std::unique_ptr<MetadataSpace> space_;
  std::unique_ptr<Buddy> buddy_;
  std::unique_ptr<MetadataPool> pool_;
  std::unique_ptr<FakeBacking> backing_;
  std::unique_ptr<Heap> heap_;
};

// A thread cache for a scope.
class Cache {
 public:
  explicit Cache(HeapInstance& instance) : heap_(instance.heap()), cache_(heap_.create_cache()) {
    EXPECT_NE(cache_, nullptr);
  }
  ~Cache() { heap_.destroy_cache(cache_); }
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  operator ThreadCache*() const { return cache_; }
  ThreadCache* operator->() const { return cache_; }

 private:
  Heap& heap_;
  ThreadCache* const cache_;
};

// Objects whose every byte is known.
inline void fill(void* memory, std::size_t size, std::uint64_t seed) {
  auto* const bytes = static_cast<unsigned char*>(memory);
  std::uint64_t state = seed * 0x9E3779B97F4A7C15U + 1;
  for (std::size_t i = 0; i < size; i += 8) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    std::memcpy(bytes + i, &state, size - i < 8 ? size - i : 8);
  }
}

inline bool is_filled(const void* memory, std::size_t size, std::uint64_t seed) {
  const auto* const bytes = static_cast<const unsigned char*>(memory);
  std::uint64_t state = seed * 0x9E3779B97F4A7C15U + 1;
  for (std::size_t i = 0; i < size; i += 8) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    if (std::memcmp(bytes + i, &state, size - i < 8 ? size - i : 8) != 0) return false;
  }
  return true;
}

}  // namespace polder
