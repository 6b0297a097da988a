// The replaceable allocation functions of C++ ([new.delete]), for programs whose own are libstdc++'s: here the four that
// do the work; the others, which call these, are in operators_forward.cc and operators_nothrow.cc.
#include <cstddef>
#include <new>

#include "runtime/allocation.h"
#include "runtime/export.h"
#include "runtime/new_failure.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wsized-deallocation"  // the other half of each pair is in operators_forward.cc
#endif

namespace polder::runtime {
namespace {

struct Request {
  std::size_t size;
  std::size_t alignment;

  void* attempt() const { return alignment <= kDefaultAlignment ? allocate(size) : allocate_aligned(size, alignment); }
};

bool is_valid(Request request) { return request.alignment != 0 && (request.alignment & (request.alignment - 1)) == 0; }

// [new.delete.single]: calls the new-handler until memory is found, and fails by throwing when there is none.
[[gnu::noinline]] void* allocate_or_throw(Request request) {
  if (!is_valid(request)) throw_bad_alloc();
  for (;;) {
    if (void* const object = request.attempt(); object != nullptr) return object;
    const NewHandler handler = current_new_handler();
    if (handler == nullptr) throw_bad_alloc();
    handler();
  }
}

inline void* allocate_new(std::size_t size) {
  void* const object = allocate_fast(size);
  if (object != nullptr) [[likely]] {
    return object;
  }
  return allocate_or_throw({.size = size, .alignment = kDefaultAlignment});
}

inline void* allocate_new(std::size_t size, std::align_val_t alignment) {
  return allocate_or_throw({.size = size, .alignment = static_cast<std::size_t>(alignment)});
}

}  // namespace
}  // namespace polder::runtime

using namespace polder::runtime;

POLDER_REPLACEABLE void* operator new(std::size_t size) { return allocate_new(size); }
POLDER_REPLACEABLE void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate_new(size, alignment);
}
POLDER_REPLACEABLE void operator delete(void* pointer) noexcept { release(pointer); }
POLDER_REPLACEABLE void operator delete(void* pointer, std::align_val_t) noexcept { release(pointer); }
