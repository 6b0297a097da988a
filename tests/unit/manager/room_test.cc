// Several threads that allocate near the limit at once: the room that one has waited for is taken by another, again and
// again. With swap to spare that is no reason to refuse anybody.
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "unit/manager/manager_fixture.h"

namespace polder {
namespace {

constexpr unsigned kThreads = 4;

struct Piece {
  unsigned char* bytes = nullptr;
  std::size_t size = 0;
  unsigned char value = 0;

  // Differs from page to page, so that none is same-filled.
  void write() const {
    for (std::size_t at = 0; at < size; at += kPageSize) {
      bytes[at] = value;
      bytes[at + 1] = static_cast<unsigned char>(at >> kPageShift);
      bytes[at + kPageSize / 2] = 1;
    }
  }
  bool holds() const {
    for (std::size_t at = 0; at < size; at += kPageSize) {
      if (bytes[at] != value || bytes[at + 1] != static_cast<unsigned char>(at >> kPageShift)) return false;
    }
    return true;
  }
};

class RoomTest : public ManagerFixture {
 protected:
  void SetUp() override {
    ManagerFixture::SetUp();
    if (!IsSkipped()) start(16 * kMiB);
  }

  // Again when nobody had to wait for room, which is what this is about; it cannot be forced, as a disk may be quicker
  // than the threads.
  void hammer(unsigned steps, std::size_t largest, std::size_t live) {
    const StatisticsSegment& statistics = manager_->statistics();
    for (int turn = 0; turn < 3 && statistics.allocation.throttled_ns.load() == 0; ++turn) {
      hammer_once(steps, largest, live);
    }
    EXPECT_GT(statistics.reclaim.evictions.load(), 0U) << "all of it fitted into the limit";
  }

  // Each thread allocates `steps` pieces of up to `largest`, all threads at the same moment, and keeps `live` bytes.
  void hammer_once(unsigned steps, std::size_t largest, std::size_t live) {
    std::barrier together(kThreads);
    std::atomic<unsigned> refused{0};
    std::atomic<unsigned> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        Heap& heap = manager_->heap();
        ThreadCache* const cache = heap.create_cache();
        std::mt19937 random(t);
        std::deque<Piece> pieces;
        std::size_t held = 0;
        for (unsigned step = 0; step < steps; ++step) {
          const std::size_t size = largest / 4 + random() % (largest * 3 / 4) / kPageSize * kPageSize;
          together.arrive_and_wait();
          auto* const bytes = static_cast<unsigned char*>(heap.allocate(cache, size));
          if (bytes == nullptr) {
            ++refused;
            continue;
          }
          pieces.push_back({bytes, size, static_cast<unsigned char>(step)});
          pieces.back().write();
          for (held += size; held > live; pieces.pop_front()) {
            wrong += !pieces.front().holds();
            held -= pieces.front().size;
            heap.free(cache, pieces.front().bytes);
          }
        }
        for (const Piece& piece : pieces) {
          wrong += !piece.holds();
          heap.free(cache, piece.bytes);
        }
        heap.destroy_cache(cache);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(refused, 0U);
    EXPECT_EQ(wrong, 0U);
    EXPECT_LE(manager_->budget().charged(), manager_->budget().limit());
    manager_->verify();
  }
};

TEST_P(RoomTest, SmallRunsAreNotRefusedWhenOthersTakeTheRoom) { hammer(600, 256 << 10, 8 * kMiB); }

TEST_P(RoomTest, RunsOfASixteenthOfTheLimitAreNotRefusedWhenOthersTakeTheRoom) { hammer(150, kMiB, 12 * kMiB); }

// A pageblock each: any two are more than what reclaim frees at a time.
TEST_P(RoomTest, RunsOfAnEighthOfTheLimitAreNotRefusedWhenOthersTakeTheRoom) { hammer(80, 2 * kMiB, 12 * kMiB); }

TEST_P(RoomTest, RunsThatTakeManagedBlocksAreNotRefusedEither) { hammer(60, 4 * kMiB, 16 * kMiB); }

INSTANTIATE_TEST_SUITE_P(Backends, RoomTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder
