#include "runtime/allocation.h"

#include <cstring>

#include "runtime/control.h"
#include "runtime/foreign.h"
#include "runtime/unevictable.h"

namespace polder::runtime {
namespace {

bool serves_unevictable() { return thread_state.unevictable != 0; }

void* reallocate_by_copy(void* pointer, std::size_t old_size, std::size_t size) {
  void* const moved = allocate(size);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, pointer, old_size < size ? old_size : size);
  release(pointer);
  return moved;
}

}  // namespace

void* allocate_slow(std::size_t size) {
  if (size > kLargestRequest) return nullptr;
  if (serves_unevictable()) return allocate_unevictable(size, kDefaultAlignment);
  attend();
  ThreadCache* const cache = own_cache();
  return running_manager().heap().allocate(cache, size);
}

void release_slow(void* pointer) {
  if (pointer == nullptr) return;
  if (arena_pointers.contains(pointer)) {
    ThreadCache* const cache = own_cache();
    running_manager().heap().free(cache, pointer);
  } else if (is_unevictable(pointer)) {
    free_unevictable(pointer);
  } else {
    free_foreign(pointer);
  }
}

void* allocate_aligned(std::size_t size, std::size_t alignment) {
  if (size > kLargestRequest || alignment > kLargestRequest - size) return nullptr;
  if (serves_unevictable()) return allocate_unevictable(size, alignment);
  attend();
  ThreadCache* const cache = own_cache();
  return running_manager().heap().allocate_aligned(cache, size, alignment);
}

void* allocate_zeroed(std::size_t size) {
  if (size > kLargestRequest) return nullptr;
  if (serves_unevictable()) return allocate_unevictable(size, kDefaultAlignment);
  attend();
  ThreadCache* const cache = own_cache();
  return running_manager().heap().allocate_zeroed(cache, size);
}

void* reallocate(void* pointer, std::size_t size) {
  if (size > kLargestRequest) return nullptr;
  if (arena_pointers.contains(pointer)) {
    ThreadCache* const cache = own_cache();
    Heap& heap = running_manager().heap();
    if (serves_unevictable()) return reallocate_by_copy(pointer, heap.usable_size(pointer), size);
    attend();
    return heap.reallocate(cache, pointer, size);
  }
  if (!is_unevictable(pointer)) return reallocate_foreign(pointer, size);
  return reallocate_by_copy(pointer, usable_size_unevictable("realloc", pointer), size);
}

std::size_t usable_size(void* pointer) {
  if (pointer == nullptr) return 0;
  if (arena_pointers.contains(pointer)) return running_manager().heap().usable_size(pointer);
  if (!is_unevictable(pointer)) return usable_size_foreign(pointer);
  return usable_size_unevictable("malloc_usable_size", pointer);
}

bool trim_heap() {
  ThreadCache* const cache = own_cache();
  return start_manager().heap().trim(cache).value != 0;
}

}  // namespace polder::runtime
