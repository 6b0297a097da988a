// What the stress program's threads share, and the bookkeeping of the objects. All of it is mapped, never allocated:
// the heap under test holds the objects and nothing else.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace polder::stress {

struct Object {
  unsigned char* pointer = nullptr;
  std::size_t size = 0;
  std::uint64_t seed = 0;
};

// Mapped memory for `count` objects of T, all zero; never unmapped.
template <typename T>
T* map_array(std::size_t count) {
  void* memory =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("stress: mmap of the bookkeeping");
    _exit(2);
  }
  return static_cast<T*>(memory);
}

// Objects on their way to the thread that will free them.
class Mailbox {
 public:
  static constexpr std::size_t kCapacity = 1024;

  bool push(const Object& object) {
    const std::lock_guard lock(mutex_);
    if (count_ == kCapacity) return false;
    objects_[(first_ + count_++) % kCapacity] = object;
    return true;
  }
  bool pop(Object* object) {
    const std::lock_guard lock(mutex_);
    if (count_ == 0) return false;
    *object = objects_[first_];
    first_ = (first_ + 1) % kCapacity;
    --count_;
    return true;
  }

 private:
  std::mutex mutex_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  Object objects_[kCapacity];
};

// Written by one worker, read by the main thread.
struct Counters {
  std::atomic<std::uint64_t> operations{0};
  std::atomic<std::uint64_t> verified_bytes{0};
  std::atomic<std::uint64_t> live_bytes{0};
  std::atomic<std::uint64_t> live_objects{0};
  std::atomic<std::uint64_t> children{0};
  std::atomic<const char*> doing{"starting"};

  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t amount) {
    counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
};

enum class Phase : unsigned { fill, churn, stop, verify };

struct Shared {
  std::atomic<Phase> phase{Phase::fill};
  std::atomic<unsigned> arrived{0};  // workers that have nothing left to do in the phase
};

// Text on standard error without stdio's buffers.
[[gnu::format(printf, 1, 2)]] inline void print(const char* format, ...) {
  char line[1024];
  std::va_list values;
  va_start(values, format);
  const int length = std::vsnprintf(line, sizeof line, format, values);
  va_end(values);
  if (length <= 0) return;
  const auto size = static_cast<std::size_t>(length) < sizeof line ? static_cast<std::size_t>(length) : sizeof line - 1;
  if (write(STDERR_FILENO, line, size) < 0) _exit(2);
}

}  // namespace polder::stress
