// What the C interfaces do, whatever their names (runtime/malloc.cc, runtime/prefixed.cc): glibc 2.36's behaviour, with
// its argument checks and errno; memory from runtime/allocation.h. Thread-safe; allocation may wait for memory to be
// evicted, freeing never does.
//
//   errno      ENOMEM where there is no memory or the size exceeds PTRDIFF_MAX; untouched by success, by free and by
//              aligned_into, which returns its error
//   size 0     a pointer of its own; resized(p, 0) frees p and returns null
//   alignment  aligned_up rounds other values up to a power of two (C23 lets aligned_alloc fail on them; glibc rounds);
//              aligned_into refuses them
//
// The exported names never call each other: a program may have replaced some of them.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/fatal.h"
#include "base/units.h"
#include "runtime/allocation.h"

namespace polder::runtime {

inline void* or_no_memory(void* pointer) {
  if (pointer == nullptr) errno = ENOMEM;
  return pointer;
}

inline bool is_power_of_two(std::size_t value) { return value != 0 && (value & (value - 1)) == 0; }

[[gnu::noinline]] void* plain_slow(std::size_t size);

inline void* plain(std::size_t size) {
  void* const pointer = allocate_fast(size);
  if (pointer != nullptr) [[likely]] {
    return pointer;
  }
  return plain_slow(size);
}

inline void* zeroed(std::size_t size) {
  if (void* const object = allocate_fast(size); object != nullptr) [[likely]] {
    return std::memset(object, 0, size);
  }
  return or_no_memory(allocate_zeroed(size));
}

void* resized(void* pointer, std::size_t size);
void* resized_array(void* pointer, std::size_t count, std::size_t size);

// Precondition: `alignment` is a power of two.
void* aligned(std::size_t alignment, std::size_t size);
void* aligned_up(std::size_t alignment, std::size_t size);
int aligned_into(void** result, std::size_t alignment, std::size_t size);
// Aligned to a page, the size rounded up to whole ones.
void* whole_pages(std::size_t size);

// C23's sized free. The size may be anything that the block has room for; a larger one, or an alignment that it does not
// have, ends the program with a report.
void release_sized(const char* operation, void* pointer, std::size_t alignment, std::size_t size);

}  // namespace polder::runtime
