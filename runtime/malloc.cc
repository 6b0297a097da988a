// The malloc family by the names that glibc 2.36 exports, and C23's. What they do is in runtime/c_interface.h.
#include <malloc.h>
#include <cerrno>
#include <cstddef>
#include <cstdio>

#include "runtime/c_interface.h"
#include "runtime/export.h"
#include "runtime/introspection.h"
#include "runtime/unevictable.h"

namespace polder::runtime {
namespace {

void* zeroed_array(std::size_t count, std::size_t size, const void* caller) {
  std::size_t total;
  if (__builtin_mul_overflow(count, size, &total)) return or_no_memory(nullptr);
  if (is_thread_specific_block(count, size, caller)) {
    return or_no_memory(allocate_unevictable(total, kDefaultAlignment));
  }
  return zeroed(total);
}

}  // namespace
}  // namespace polder::runtime

using namespace polder::runtime;

extern "C" {

POLDER_EXPORT void* malloc(std::size_t size) noexcept { return plain(size); }

POLDER_EXPORT void free(void* pointer) noexcept { release(pointer); }

POLDER_EXPORT void* calloc(std::size_t count, std::size_t size) noexcept {
  return zeroed_array(count, size, __builtin_return_address(0));
}

POLDER_EXPORT void* realloc(void* pointer, std::size_t size) noexcept { return resized(pointer, size); }

POLDER_EXPORT void* reallocarray(void* pointer, std::size_t count, std::size_t size) noexcept {
  return resized_array(pointer, count, size);
}

POLDER_EXPORT void* memalign(std::size_t alignment, std::size_t size) noexcept { return aligned_up(alignment, size); }

POLDER_EXPORT void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return aligned_up(alignment, size);
}

POLDER_EXPORT int posix_memalign(void** result, std::size_t alignment, std::size_t size) noexcept {
  return aligned_into(result, alignment, size);
}

POLDER_EXPORT void* valloc(std::size_t size) noexcept { return aligned(polder::kPageSize, size); }

POLDER_EXPORT void* pvalloc(std::size_t size) noexcept { return whole_pages(size); }

// C23, in glibc since 2.43.
POLDER_EXPORT void free_sized(void* pointer, std::size_t size) noexcept {
  release_sized("free_sized", pointer, kDefaultAlignment, size);
}

POLDER_EXPORT void free_aligned_sized(void* pointer, std::size_t alignment, std::size_t size) noexcept {
  release_sized("free_aligned_sized", pointer, alignment, size);
}

POLDER_EXPORT std::size_t malloc_usable_size(void* pointer) noexcept { return usable_size(pointer); }

POLDER_EXPORT int malloc_trim(std::size_t) noexcept { return trim_heap() ? 1 : 0; }

// Nothing that glibc tunes exists here: there are no arenas to count, no thresholds between brk and mmap, and what is free
// goes back by itself (heap/run_source.h). M_PERTURB would touch memory on free, which may be evicted. As there, unknown
// parameters succeed, and only a fast-bin size out of range is an error.
POLDER_EXPORT int mallopt(int parameter, int value) noexcept {
  constexpr unsigned kLargestFastBin = 80 * sizeof(std::size_t) / 4;
  return parameter == M_MXFAST && static_cast<unsigned>(value) > kLargestFastBin ? 0 : 1;
}

POLDER_EXPORT struct mallinfo2 mallinfo2(void) noexcept { return heap_info(); }

// The same in ints, which overflow as glibc's do.
POLDER_EXPORT struct mallinfo mallinfo(void) noexcept {
  const struct mallinfo2 wide = heap_info();
  struct mallinfo info {};
  info.arena = static_cast<int>(wide.arena);
  info.ordblks = static_cast<int>(wide.ordblks);
  info.hblks = static_cast<int>(wide.hblks);
  info.hblkhd = static_cast<int>(wide.hblkhd);
  info.uordblks = static_cast<int>(wide.uordblks);
  info.fordblks = static_cast<int>(wide.fordblks);
  info.keepcost = static_cast<int>(wide.keepcost);
  return info;
}

POLDER_EXPORT void malloc_stats(void) noexcept { say_heap_info(); }

POLDER_EXPORT int malloc_info(int options, FILE* stream) noexcept {
  if (options != 0) return EINVAL;
  write_heap_info(stream);
  return 0;
}

// Other names by which programs built for glibc reach the same functions. cfree is what linkers bound before 2.26.
POLDER_EXPORT void cfree(void* pointer) noexcept { release(pointer); }
POLDER_EXPORT void __libc_free(void* pointer) noexcept { release(pointer); }
POLDER_EXPORT void* __libc_malloc(std::size_t size) noexcept { return plain(size); }
POLDER_EXPORT void* __libc_calloc(std::size_t count, std::size_t size) noexcept {
  return zeroed_array(count, size, __builtin_return_address(0));
}
POLDER_EXPORT void* __libc_realloc(void* pointer, std::size_t size) noexcept { return resized(pointer, size); }
POLDER_EXPORT void* __libc_memalign(std::size_t alignment, std::size_t size) noexcept {
  return aligned_up(alignment, size);
}
POLDER_EXPORT void* __libc_valloc(std::size_t size) noexcept { return aligned(polder::kPageSize, size); }
POLDER_EXPORT void* __libc_pvalloc(std::size_t size) noexcept { return whole_pages(size); }

}  // extern "C"
