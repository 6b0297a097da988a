// The malloc family under names of the library's own (include/polder/polder.h), for programs whose malloc is another one.
#include <cstddef>

#include "runtime/c_interface.h"
#include "runtime/export.h"

extern "C" {
#pragma GCC visibility push(default)
#include "polder/polder.h"
#pragma GCC visibility pop
}

using namespace polder::runtime;

extern "C" {

POLDER_EXPORT void* polder_malloc(std::size_t size) noexcept { return plain(size); }

POLDER_EXPORT void* polder_calloc(std::size_t count, std::size_t size) noexcept {
  std::size_t total;
  if (__builtin_mul_overflow(count, size, &total)) return or_no_memory(nullptr);
  return zeroed(total);
}

POLDER_EXPORT void* polder_realloc(void* pointer, std::size_t size) noexcept { return resized(pointer, size); }

POLDER_EXPORT void* polder_reallocarray(void* pointer, std::size_t count, std::size_t size) noexcept {
  return resized_array(pointer, count, size);
}

POLDER_EXPORT void* polder_aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return aligned_up(alignment, size);
}

POLDER_EXPORT int polder_posix_memalign(void** result, std::size_t alignment, std::size_t size) noexcept {
  return aligned_into(result, alignment, size);
}

POLDER_EXPORT void polder_free(void* pointer) noexcept { release(pointer); }

POLDER_EXPORT void polder_free_sized(void* pointer, std::size_t size) noexcept {
  release_sized("polder_free_sized", pointer, kDefaultAlignment, size);
}

POLDER_EXPORT void polder_free_aligned_sized(void* pointer, std::size_t alignment, std::size_t size) noexcept {
  release_sized("polder_free_aligned_sized", pointer, alignment, size);
}

POLDER_EXPORT std::size_t polder_malloc_usable_size(void* pointer) noexcept { return usable_size(pointer); }

POLDER_EXPORT int polder_malloc_trim(void) noexcept { return trim_heap() ? 1 : 0; }

}  // extern "C"
