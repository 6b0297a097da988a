#include "stress/worker.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <ctime>

namespace polder::stress {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kForkInterval = 500'000'000;  // ns between two forks of one worker

std::uint64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(time.tv_nsec);
}

// The pattern is compared through memory that the compiler knows nothing about.
void* opaque(void* pointer) {
  asm volatile("" : "+r"(pointer) : : "memory");
  return pointer;
}

}  // namespace

Worker::Worker(const WorkerSettings& settings, Shared* shared, Counters* counters, Mailbox* mailboxes)
    : settings_(settings),
      shared_(shared),
      counters_(counters),
      mailboxes_(mailboxes),
      random_(settings.seed * 0x9E3779B97F4A7C15U + settings.index),
      slots_(map_array<Object>(kSlots)),
      next_seed_(settings.seed ^ (std::uint64_t{settings.index} << 56)) {}

void Worker::run() {
  while (bytes_ < settings_.live_bytes) allocate();
  shared_->arrived.fetch_add(1);
  while (shared_->phase.load() == Phase::fill) {
    take_in();
    usleep(1000);
  }
  next_fork_ = now_ns() + kForkInterval / settings_.threads * settings_.index;
  while (shared_->phase.load(std::memory_order_relaxed) == Phase::churn) step();
  shared_->arrived.fetch_add(1);
  while (shared_->phase.load() != Phase::verify) usleep(1000);
  verify_everything();
  shared_->arrived.fetch_add(1);
}

// Ranges are powers of two apart; sizes are uniform in the exponent within a range.
std::size_t Worker::random_size() {
  struct Range {
    unsigned per_mille;
    unsigned low_bits;
    unsigned high_bits;
  };
  static constexpr Range kRanges[] = {{400, 4, 7},  {300, 7, 10}, {200, 10, 13},
                                      {80, 13, 16}, {18, 16, 19}, {2, 19, 22}};
  std::uint64_t pick = random_.below(1000);
  const Range* range = kRanges;
  while (pick >= range->per_mille) pick -= range->per_mille, ++range;
  const auto bits = range->low_bits + random_.below(range->high_bits - range->low_bits);
  const std::size_t low = std::size_t{1} << bits;
  return low + random_.below(low + 1);
}

void Worker::adopt(const Object& object) {
  slots_[live_++] = object;
  bytes_ += object.size;
  counters_->live_bytes.store(bytes_, std::memory_order_relaxed);
  counters_->live_objects.store(live_, std::memory_order_relaxed);
}

Object Worker::release(std::size_t slot) {
  const Object object = slots_[slot];
  slots_[slot] = slots_[--live_];
  bytes_ -= object.size;
  counters_->live_bytes.store(bytes_, std::memory_order_relaxed);
  return object;
}

// A new object by one of the allocating functions, filled and remembered.
void Worker::allocate() {
  Object object;
  object.size = random_size();
  object.seed = next_seed_ += 1 + random_.below(16);
  std::size_t alignment = 16;
  void* pointer = nullptr;
  const std::uint64_t pick = random_.below(16);
  if (pick == 0) {
    alignment = std::size_t{16} << random_.below(10);
    if (posix_memalign(&pointer, alignment, object.size) != 0) pointer = nullptr;
    counters_->doing.store("posix_memalign", std::memory_order_relaxed);
  } else if (pick <= 3) {
    counters_->doing.store("calloc", std::memory_order_relaxed);
    const std::size_t unit = object.size % 8 == 0 ? 8 : 1;
    pointer = opaque(calloc(object.size / unit, unit));
  } else {
    counters_->doing.store("malloc", std::memory_order_relaxed);
    pointer = opaque(malloc(object.size));
    // Whoever asks for the usable size may use it.
    if (pointer != nullptr && random_.one_in(16)) {
      const std::size_t usable = malloc_usable_size(pointer);
      if (usable < object.size) {
        print("stress: malloc_usable_size(%p) is %zu after malloc(%zu)\n", pointer, usable, object.size);
        _exit(1);
      }
      object.size = usable;
    }
  }
  if (pointer == nullptr) out_of_memory(object.size, counters_->doing.load());
  object.pointer = static_cast<unsigned char*>(pointer);
  if (reinterpret_cast<std::uintptr_t>(pointer) % std::min(alignment, std::size_t{1} << 13) != 0) {
    print("stress: %p is not aligned to %zu\n", pointer, alignment);
    _exit(1);
  }
  if (pick > 0 && pick <= 3) {
    constexpr programs::Pattern kZeros(0);
    const std::size_t wrong = kZeros.first_difference(pointer, 0, object.size);
    if (wrong != programs::Pattern::kNone) fail({object.pointer, object.size, 0}, wrong, "calloc's zeros");
    Counters::add(counters_->verified_bytes, object.size);
  }
  programs::Pattern(object.seed).fill(object.pointer, 0, object.size);
  adopt(object);
}

void Worker::check(const Object& object, std::size_t from, std::size_t to, const char* doing) {
  counters_->doing.store(doing, std::memory_order_relaxed);
  const std::size_t wrong = programs::Pattern(object.seed).first_difference(opaque(object.pointer), from, to);
  if (wrong != programs::Pattern::kNone) fail(object, wrong, doing);
  Counters::add(counters_->verified_bytes, to - from);
}

void Worker::check_and_free(const Object& object, const char* doing) {
  check_all(object, doing);
  counters_->doing.store("free", std::memory_order_relaxed);
  const int before = errno;
  errno = 4711;
  free(object.pointer);
  if (errno != 4711) {
    print("stress: free changed errno to %d\n", errno);
    _exit(1);
  }
  errno = before;
}

void Worker::step() {
  Counters::add(counters_->operations, 1);
  if (settings_.fork_children && now_ns() >= next_fork_) fork_child();
  if (bytes_ < settings_.live_bytes || live_ == 0) {
    allocate();
    return;
  }
  if (bytes_ > settings_.live_bytes + settings_.live_bytes / 16) {
    check_and_free(release(random_slot()), "check before free");
    return;
  }
  const std::uint64_t pick = random_.below(100);
  if (pick < 35) {
    read_some();
  } else if (pick < 65) {
    replace();
  } else if (pick < 80) {
    resize();
  } else if (pick < 90) {
    give_away();
  } else {
    take_in();
  }
}

void Worker::read_some() {
  const Object& object = slots_[random_slot()];
  if (object.size <= 4 * kPage || random_.one_in(4)) {
    check_all(object, "read");
    return;
  }
  const std::size_t from = random_.below(object.size);
  check(object, from, std::min(object.size, from + 1 + random_.below(4 * kPage)), "read of a part");
}

void Worker::replace() {
  check_and_free(release(random_slot()), "check before replace");
  allocate();
}

void Worker::resize() {
  Object object = release(random_slot());
  check_all(object, "check before realloc");
  std::size_t size = random_size();
  if (random_.one_in(2)) {  // near the old size, where a resize in place is likely
    size = std::max<std::size_t>(1, object.size / 2 + random_.below(object.size + 1));
  }
  counters_->doing.store("realloc", std::memory_order_relaxed);
  void* moved = opaque(realloc(object.pointer, size));
  if (moved == nullptr) out_of_memory(size, "realloc");
  const std::size_t kept = std::min(size, object.size);
  object.pointer = static_cast<unsigned char*>(moved);
  object.size = size;
  check(object, 0, kept, "check after realloc");
  programs::Pattern(object.seed).fill(object.pointer, kept, size);
  adopt(object);
}

void Worker::give_away() {
  const Object object = release(random_slot());
  const auto receiver = (settings_.index + 1 + random_.below(std::max(settings_.threads - 1, 1U))) % settings_.threads;
  if (!mailboxes_[receiver].push(object)) check_and_free(object, "check before free");
}

// Another thread's objects: some are freed here at once, some live on here.
void Worker::take_in() {
  Object object;
  for (unsigned i = 0; i < 8 && mailboxes_[settings_.index].pop(&object); ++i) {
    if (live_ < kSlots && random_.one_in(2)) {
      adopt(object);
    } else {
      check_and_free(object, "check before another thread's free");
    }
  }
}

void Worker::fork_child() {
  next_fork_ = now_ns() + kForkInterval + random_.below(kForkInterval);
  counters_->doing.store("fork", std::memory_order_relaxed);
  const pid_t child = fork();
  if (child == 0) child_body(0);
  if (child < 0) {
    print("stress: fork: errno %d\n", errno);
    _exit(1);
  }
  counters_->doing.store("waiting for a child", std::memory_order_relaxed);
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) {
      print("stress: waitpid: errno %d\n", errno);
      _exit(1);
    }
  }
  Counters::add(counters_->children, 1);
  if (status != 0) {
    print("stress: child %d of worker %u ended with wait status 0x%x\n", child, settings_.index,
          static_cast<unsigned>(status));
    _exit(1);
  }
}

// In the child only this worker's objects are known to be whole: the others were in the middle of something.
void Worker::child_body(unsigned generation) {
  for (unsigned i = 0; i < 400; ++i) check_all(slots_[random_slot()], "read in a child");
  for (unsigned i = 0; i < 100; ++i) {
    if (random_.one_in(2)) {
      replace();
    } else {
      resize();
    }
  }
  if (generation == 0 && random_.one_in(4)) {
    const pid_t grandchild = fork();
    if (grandchild == 0) child_body(1);
    int status = 1;
    if (grandchild < 0 || waitpid(grandchild, &status, 0) != grandchild || status != 0) {
      print("stress: grandchild ended with wait status 0x%x\n", static_cast<unsigned>(status));
      _exit(1);
    }
  }
  for (unsigned i = 0; i < 100; ++i) check_all(slots_[random_slot()], "read in a child after writes");
  _exit(0);
}

// In the order of addresses, so that the walk over everything costs what a sequential read costs.
void Worker::verify_everything() {
  Object object;
  while (mailboxes_[settings_.index].pop(&object)) adopt(object);
  std::sort(slots_, slots_ + live_, [](const Object& a, const Object& b) { return a.pointer < b.pointer; });
  for (std::size_t i = 0; i < live_; ++i) check_and_free(slots_[i], "last check");
  Counters::add(counters_->operations, live_);
}

void Worker::fail(const Object& object, std::size_t offset, const char* doing) {
  const programs::Pattern pattern(object.seed);
  print(
      "stress: WRONG BYTE during \"%s\": process %d, worker %u, object %p of %zu bytes, seed 0x%llx, offset %zu "
      "(address %p): expected 0x%02x, found 0x%02x\n",
      doing, getpid(), settings_.index, static_cast<void*>(object.pointer), object.size,
      static_cast<unsigned long long>(object.seed), offset, static_cast<void*>(object.pointer + offset),
      pattern.byte(offset), object.pointer[offset]);
  // Page by page: how much is wrong, and whether it is zeros.
  const auto address = reinterpret_cast<std::uintptr_t>(object.pointer);
  unsigned pages = 0;
  for (std::size_t at = offset; at < object.size && pages < 16; ++pages) {
    const std::size_t end = std::min(object.size, at + kPage - (address + at) % kPage);
    std::size_t wrong = 0;
    std::size_t zeros = 0;
    for (std::size_t i = at; i < end; ++i) {
      wrong += object.pointer[i] != pattern.byte(i);
      zeros += object.pointer[i] == 0;
    }
    print("stress:   page 0x%zx: %zu of %zu bytes wrong, %zu are zero\n", (address + at) & ~(kPage - 1), wrong,
          end - at, zeros);
    at = end;
  }
  for (std::size_t row = offset & ~std::size_t{15}, rows = 0; rows < 4 && row + 16 <= object.size; ++rows, row += 16) {
    char found[33];
    char expected[33];
    for (std::size_t i = 0; i < 16; ++i) {
      std::snprintf(found + 2 * i, 3, "%02x", object.pointer[row + i]);
      std::snprintf(expected + 2 * i, 3, "%02x", pattern.byte(row + i));
    }
    print("stress:   +%zu found %s expected %s\n", row, found, expected);
  }
  if (std::getenv("POLDER_STRESS_ABORT") != nullptr) std::abort();
  _exit(1);
}

void Worker::out_of_memory(std::size_t size, const char* doing) {
  print("stress: %s of %zu bytes failed, errno %d; worker %u holds %llu bytes\n", doing, size, errno, settings_.index,
        static_cast<unsigned long long>(bytes_));
  _exit(1);
}

}  // namespace polder::stress
