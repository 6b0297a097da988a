// The heap under many threads, which hop from processor to processor, and around fork.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "unit/heap/heap_fixture.h"

namespace polder {
namespace {

constexpr unsigned kThreads = 4;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kSteps = 30'000;
#else
constexpr int kSteps = 200'000;
#endif

struct Object {
  std::size_t size;
  std::uint64_t seed;
  char bytes[8];
};

Object* make(Heap& heap, ThreadCache* cache, std::mt19937_64& random) {
  const std::size_t payload = random() % (random() % 64 == 0 ? 150'000 : 700);
  auto* const object = static_cast<Object*>(heap.allocate(cache, sizeof(Object) + payload));
  if (object == nullptr) return nullptr;
  object->size = payload;
  object->seed = random();
  fill(object->bytes, payload, object->seed);
  return object;
}

void unmake(Heap& heap, ThreadCache* cache, Object* object) {
  ASSERT_TRUE(is_filled(object->bytes, object->size, object->seed));
  heap.free(cache, object);
}

void unmake_all(HeapInstance& heap, std::span<std::atomic<Object*>> slots) {
  const Cache cache(heap);
  for (const std::atomic<Object*>& slot : slots) {
    if (Object* const object = slot.load()) unmake(heap.heap(), cache, object);
  }
  heap->trim(cache);
  heap.expect_empty();
}

HeapInstance hopping_heap(std::size_t arena_size) {
  return HeapInstance(arena_size, FakeBacking::Memory::real, os::monotonic_ns, Hardening::off, kHopping);
}

TEST(HeapThreads, FreeWhatOthersAllocated) {
  HeapInstance heap = hopping_heap(std::size_t{512} << 20);
  constexpr std::size_t kSlots = 4000;
  auto slots = std::make_unique<std::atomic<Object*>[]>(kSlots);
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const Cache cache(heap);
      std::mt19937_64 random(thread);
      for (int step = 0; step < kSteps; ++step) {
        Object* const fresh = random() % 8 == 0 ? nullptr : make(heap.heap(), cache, random);
        Object* const old = slots[random() % kSlots].exchange(fresh, std::memory_order_acq_rel);
        if (old != nullptr) unmake(heap.heap(), cache, old);
        if (random() % 10'000 == 0) heap->trim(cache);
      }
    });
  }
  for (int i = 0; i < 5; ++i) heap->verify();
  for (std::thread& thread : threads) thread.join();
  heap->verify();
  unmake_all(heap, {slots.get(), kSlots});
}

// Threads that do little, one after the other, and hand over their caches while others sweep, trim and verify.
TEST(HeapThreads, CachesComeAndGo) {
  HeapInstance heap = hopping_heap(std::size_t{256} << 20);
  constexpr std::size_t kSlots = 100;
  auto slots = std::make_unique<std::atomic<Object*>[]>(kSlots);
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      for (int step = 0; step < kSteps;) {
        const Cache cache(heap);
        for (std::uint64_t left = random() % 40; left != 0; --left, ++step) {
          Object* const fresh = random() % 4 == 0 ? nullptr : make(heap.heap(), cache, random);
          Object* const old = slots[random() % kSlots].exchange(fresh, std::memory_order_acq_rel);
          if (old != nullptr) unmake(heap.heap(), cache, old);
        }
        if (random() % 1000 == 0) heap->trim(random() % 2 == 0 ? cache : ThreadCache::empty());
        ++step;
      }
    });
  }
  for (int i = 0; i < 20; ++i) heap->verify();
  for (std::thread& thread : threads) thread.join();
  heap->verify();
  unmake_all(heap, {slots.get(), kSlots});
}

TEST(HeapThreads, OneAllocatesAnotherFrees) {
  HeapInstance heap = hopping_heap(std::size_t{256} << 20);
  constexpr unsigned kRing = 256;
  std::atomic<Object*> ring[kRing] = {};
  std::thread producer([&] {
    const Cache cache(heap);
    std::mt19937_64 random(1);
    for (int step = 0; step < kSteps; ++step) {
      std::atomic<Object*>& slot = ring[static_cast<unsigned>(step) % kRing];
      while (slot.load(std::memory_order_acquire) != nullptr) std::this_thread::yield();
      slot.store(make(heap.heap(), cache, random), std::memory_order_release);
    }
  });
  std::thread consumer([&] {
    const Cache cache(heap);
    for (int step = 0; step < kSteps; ++step) {
      std::atomic<Object*>& slot = ring[static_cast<unsigned>(step) % kRing];
      Object* object;
      while ((object = slot.load(std::memory_order_acquire)) == nullptr) std::this_thread::yield();
      slot.store(nullptr, std::memory_order_release);
      unmake(heap.heap(), cache, object);
    }
  });
  producer.join();
  consumer.join();
  heap.expect_empty();
}

// Small spans of several threads meet in a page: it is there as long as one of them is, and given up by the last.
TEST(HeapThreads, SharePages) {
  HeapInstance heap(std::size_t{64} << 20);
  heap.backing().set_under_pressure(true);  // nothing is kept
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      struct Live {
        char* memory = nullptr;
        std::size_t size = 0;
      } live[4];
      for (int step = 0; step < kSteps / 4; ++step) {
        Live& each = live[random() % 4];
        const std::size_t size = 9'000 + random() % 3'000;
        if (each.memory != nullptr && random() % 4 == 0) {
          ASSERT_TRUE(is_filled(each.memory, each.size, thread));
          each.memory = static_cast<char*>(heap->reallocate(ThreadCache::empty(), each.memory, size));
          ASSERT_TRUE(is_filled(each.memory, std::min(size, each.size), thread));
        } else {
          if (each.memory != nullptr) {
            ASSERT_TRUE(is_filled(each.memory, each.size, thread));
            heap->free(ThreadCache::empty(), each.memory);
          }
          const bool zeroed = random() % 4 == 0;
          void* const fresh =
              zeroed ? heap->allocate_zeroed(ThreadCache::empty(), size) : heap->allocate(ThreadCache::empty(), size);
          each.memory = static_cast<char*>(fresh);
          if (zeroed) {
            ASSERT_EQ(std::count(each.memory, each.memory + size, 0), static_cast<std::ptrdiff_t>(size));
          }
        }
        each.size = size;
        fill(each.memory, size, thread);
        if (random() % 1000 == 0) static_cast<void>(heap->free_pages().purge_dirty({8}));
      }
      for (const Live& each : live) {
        if (each.memory != nullptr) heap->free(ThreadCache::empty(), each.memory);
      }
    });
  }
  for (int i = 0; i < 20; ++i) heap->verify();
  for (std::thread& thread : threads) thread.join();
  heap.expect_empty();
}

TEST(HeapThreads, ShareTooLittleMemory) {
  HeapInstance heap = hopping_heap(std::size_t{512} << 20);
  heap.backing().set_capacity(500);
  std::atomic<std::uint64_t> refused{0};
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const Cache cache(heap);
      std::mt19937_64 random(thread);
      std::vector<Object*> live;
      for (int step = 0; step < kSteps / 4; ++step) {
        if (random() % 100 < 60) {
          if (Object* const object = make(heap.heap(), cache, random)) {
            live.push_back(object);
          } else {
            refused.fetch_add(1, std::memory_order_relaxed);
            for (std::size_t i = live.size() / 2; i > 0; --i) {
              unmake(heap.heap(), cache, live.back());
              live.pop_back();
            }
          }
        } else if (!live.empty()) {
          std::swap(live[random() % live.size()], live.back());
          unmake(heap.heap(), cache, live.back());
          live.pop_back();
        }
      }
      for (Object* const object : live) unmake(heap.heap(), cache, object);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(refused.load(), 0U);
  heap.expect_empty();
}

// The child has only the thread that forked; it goes on with that thread's cache, and frees what others allocated.
TEST(HeapThreads, ForkWhileOthersAllocate) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's own locks do not survive a fork of many threads";
#endif
  HeapInstance heap = hopping_heap(std::size_t{256} << 20);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      const Cache cache(heap);
      std::mt19937_64 random(thread);
      std::vector<Object*> live;
      while (!stop.load(std::memory_order_relaxed)) {
        if (live.size() < 200) live.push_back(make(heap.heap(), cache, random));
        std::swap(live[random() % live.size()], live.back());
        if (random() % 2 == 0) {
          unmake(heap.heap(), cache, live.back());
          live.pop_back();
        }
      }
      for (Object* const object : live) unmake(heap.heap(), cache, object);
    });
  }
  {
    const Cache cache(heap);
    std::mt19937_64 random(99);
    std::vector<Object*> mine;
    for (int i = 0; i < 1000; ++i) mine.push_back(make(heap.heap(), cache, random));
    for (int round = 0; round < 50; ++round) {
      heap->lock_for_fork();
      heap.buddy().fork_mutex().lock();
      heap.pool().fork_mutex().lock();
      heap.backing().mutex().lock();
      const pid_t child = fork();
      heap.backing().mutex().unlock();
      if (child == 0) {
        alarm(400);
        heap.pool().fork_mutex().reset_in_child();
        heap.buddy().fork_mutex().reset_in_child();
        heap->reset_after_fork_child(cache);
        Heap::Statistics statistics;
        heap->statistics(statistics);
        if (statistics.thread_caches != 1) _exit(2);
        for (Object* const object : mine) {
          if (!is_filled(object->bytes, object->size, object->seed)) _exit(1);
          heap->free(cache, object);
        }
        for (int i = 0; i < 1000; ++i) heap->free(cache, make(heap.heap(), cache, random));
        heap->trim(cache);
        heap->verify();
        _exit(0);
      }
      heap.pool().fork_mutex().unlock();
      heap.buddy().fork_mutex().unlock();
      heap->unlock_after_fork_parent();
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    for (Object* const object : mine) unmake(heap.heap(), cache, object);
  }
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  heap.expect_empty();
}

}  // namespace
}  // namespace polder
