// Allocation for the C-level interfaces, c_interface.h and operators.cc: fast paths to inline, and everything unusual out
// of line. No function here touches errno; null means that there is no memory, or that the size cannot exist.
//
// Where a pointer comes from decides everything else: inside the arena it is the heap's, inside the unevictable pool it
// is runtime/unevictable.h's, anything else was not handed out here: it goes back to the C library if it is a block of
// its allocator (runtime/foreign.h), or ends the program with a report.
#pragma once

#include <cstddef>
#include <cstdint>

#include "heap/heap.h"
#include "runtime/instance.h"
#include "runtime/thread_state.h"

namespace polder::runtime {

// Largest object that a pointer difference can span.
inline constexpr std::size_t kLargestRequest = PTRDIFF_MAX;

// malloc's alignment on x86-64.
inline constexpr std::size_t kDefaultAlignment = 16;

[[gnu::noinline]] void* allocate_slow(std::size_t size);
[[gnu::noinline]] void release_slow(void* pointer);

// What the thread's cache has at hand, or null: the fast half of allocate(). Callers that have more to do for null put it
// out of line, so that the compiler keeps this half free of it.
inline void* allocate_fast(std::size_t size) {
  if (size > kLargestSmall) return nullptr;
  return thread_state.cache->try_allocate(size);
}

// At least `size` bytes aligned to 16, also for 0.
inline void* allocate(std::size_t size) {
  void* const object = allocate_fast(size);
  return object != nullptr ? object : allocate_slow(size);
}

// Frees what any function here returned; null is nothing.
inline void release(void* pointer) {
  if (arena_pointers.contains(pointer) && thread_state.cache->try_free(arena_pointers.kind(pointer), pointer))
      [[likely]] {
    return;
  }
  release_slow(pointer);
}

// `alignment` is a power of two of at least 16.
void* allocate_aligned(std::size_t size, std::size_t alignment);
void* allocate_zeroed(std::size_t size);
// Neither null nor size 0. The old object is untouched when there is no memory for the new one.
void* reallocate(void* pointer, std::size_t size);
// 0 for null.
std::size_t usable_size(void* pointer);

// Gives back what is idle, the thread's own cache too; whether that was anything.
bool trim_heap();

}  // namespace polder::runtime
