// Objects that know themselves: every workload allocates, resizes and frees through these functions, so that memory
// that is handed out twice, lost by realloc or written by somebody else ends the program.
//
//   0        8                     size-1  size
//   ┌────────┬─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─┬────┐
//   │ head   │ the workload's own   │tail│
//   └────────┴─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─┴────┘
//
//   head  the size twice (in the upper 29 bits and in the lower 35), XOR the address, XOR a constant; of an object that
//         was released, its complement
//   tail  a byte that follows from the size; objects of 8 bytes have none
//
// Two memory accesses at either end of an object's life, all on lines that a program would touch, and no
// multiplication: the mark must not hide what the allocator costs. Sizes are 8 bytes to 256 MiB; allocators serve less
// than 8 like 8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "programs/pattern.h"

namespace polder::bench {

using programs::Random;

// Ends the program with status 1.
[[noreturn]] void fail(const char* what);

inline constexpr std::size_t kSmallestObject = 8;
inline constexpr unsigned kSizeShift = 35;
inline constexpr std::uint64_t kHeadConstant = 0x2'9A6D'35C7U;

inline std::uint64_t load_word(const void* at) {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

inline void store_word(void* at, std::uint64_t word) { std::memcpy(at, &word, sizeof word); }

inline std::uint64_t head_of(const void* object, std::size_t size) {
  return ((static_cast<std::uint64_t>(size) << kSizeShift) | size) ^ reinterpret_cast<std::uintptr_t>(object) ^
         kHeadConstant;
}

inline char tail_of(std::size_t size) { return static_cast<char>(size ^ 0xA5U); }

inline void mark(void* object, std::size_t size) {
  if (size > kSmallestObject) static_cast<char*>(object)[size - 1] = tail_of(size);
  store_word(object, head_of(object, size));
}

// The size of a marked object, 0 when the mark is damaged.
inline std::size_t marked_size(const void* object) {
  const std::uint64_t plain = load_word(object) ^ reinterpret_cast<std::uintptr_t>(object) ^ kHeadConstant;
  const auto size = static_cast<std::size_t>(plain >> kSizeShift);
  if ((plain & ((std::uint64_t{1} << kSizeShift) - 1)) != size || size < kSmallestObject) return 0;
  if (size > kSmallestObject && static_cast<const char*>(object)[size - 1] != tail_of(size)) return 0;
  return size;
}

inline std::size_t check(const void* object) {
  const std::size_t size = marked_size(object);
  if (size == 0) fail("the mark of an object is damaged");
  return size;
}

// Marks what any function of the malloc family returned.
inline void* adopt(void* object, std::size_t size) {
  if (object == nullptr) fail("no memory");
  mark(object, size);
  return object;
}

inline void* allocate(std::size_t size) { return adopt(std::malloc(size), size); }

inline void release(void* object) {
  check(object);
  store_word(object, ~load_word(object));
  std::free(object);
}

// realloc of a marked object. What realloc must preserve is checked as far as the mark reaches.
inline void* resize(void* object, std::size_t size) {
  const std::size_t old_size = check(object);
  const std::uint64_t head = load_word(object);
  void* const moved = std::realloc(object, size);
  if (moved == nullptr) fail("no memory");
  if (load_word(moved) != head) fail("realloc lost the first bytes of an object");
  if (size >= old_size && old_size > kSmallestObject &&
      static_cast<const char*>(moved)[old_size - 1] != tail_of(old_size)) {
    fail("realloc lost the last byte of an object");
  }
  mark(moved, size);
  return moved;
}

// Sizes from `smallest` up to `smallest` times 2^doublings, as many of each power of two. `smallest` is one.
class SizeMix {
 public:
  SizeMix(std::size_t smallest, std::size_t largest) : smallest_(smallest) {
    while ((smallest << (doublings_ + 1)) <= largest) ++doublings_;
    if (doublings_ == 0) doublings_ = 1;
  }

  std::size_t operator()(Random& random) const {
    const std::uint64_t number = random.next();
    const std::size_t low = smallest_ << (((number >> 32) * doublings_) >> 32);
    return low + (static_cast<std::size_t>(number) & (low - 1));
  }

 private:
  std::size_t smallest_;
  unsigned doublings_ = 0;
};

}  // namespace polder::bench
