// The malloc family as glibc 2.36 exports it, with glibc's behaviour: argument checks and errno here, memory from
// runtime/allocation.h. Thread-safe; malloc may wait for memory to be evicted, free never does.
//
//   errno      ENOMEM where there is no memory or the size exceeds PTRDIFF_MAX; untouched by success, by free and by
//              posix_memalign, which returns its error
//   size 0     a pointer of its own; realloc(p, 0) frees p and returns null
//   alignment  memalign and aligned_alloc round other values up to a power of two; posix_memalign refuses them
#include <malloc.h>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "base/message.h"
#include "runtime/allocation.h"
#include "runtime/export.h"
#include "runtime/unevictable.h"

namespace polder::runtime {
namespace {

inline void* or_no_memory(void* pointer) {
  if (pointer == nullptr) errno = ENOMEM;
  return pointer;
}

bool is_power_of_two(std::size_t value) { return value != 0 && (value & (value - 1)) == 0; }

// What stands behind the exported names. The names never call each other: a program may have replaced some of them.
[[gnu::noinline]] void* plain_slow(std::size_t size) { return or_no_memory(allocate_slow(size)); }

inline void* plain(std::size_t size) {
  void* const pointer = allocate_fast(size);
  if (pointer != nullptr) [[likely]] {
    return pointer;
  }
  return plain_slow(size);
}

void* zeroed(std::size_t count, std::size_t size, const void* caller) {
  std::size_t total;
  if (__builtin_mul_overflow(count, size, &total)) return or_no_memory(nullptr);
  if (is_thread_specific_block(count, size, caller)) {
    return or_no_memory(allocate_unevictable(total, kDefaultAlignment));
  }
  if (void* const object = allocate_fast(total); object != nullptr) [[likely]] {
    return std::memset(object, 0, total);
  }
  return or_no_memory(allocate_zeroed(total));
}

void* resized(void* pointer, std::size_t size) {
  if (pointer == nullptr) return or_no_memory(allocate(size));
  if (size == 0) {
    release(pointer);
    return nullptr;
  }
  return or_no_memory(reallocate(pointer, size));
}

// Precondition: `alignment` is a power of two.
void* aligned(std::size_t alignment, std::size_t size) {
  if (alignment <= kDefaultAlignment) return or_no_memory(allocate(size));
  return or_no_memory(allocate_aligned(size, alignment));
}

void* aligned_up(std::size_t alignment, std::size_t size) {
  constexpr std::size_t kLargestPower = SIZE_MAX / 2 + 1;
  if (alignment > kLargestPower) {
    errno = EINVAL;
    return nullptr;
  }
  std::size_t power = kDefaultAlignment;
  while (power < alignment) power <<= 1;
  return aligned(power, size);
}

void* whole_pages(std::size_t size) {
  std::size_t padded;
  if (__builtin_add_overflow(size, polder::kPageSize - 1, &padded)) return or_no_memory(nullptr);
  return aligned(polder::kPageSize, padded & ~(polder::kPageSize - 1));
}

// What the heap has out, in mallinfo's terms.
struct mallinfo2 heap_info() {
  Heap::Statistics statistics;
  start_manager().heap().statistics(statistics);
  struct mallinfo2 info {};
  info.arena = bytes(statistics.slab_pages);
  info.hblks = statistics.large_runs;
  info.hblkhd = bytes(statistics.large_pages);
  info.uordblks = statistics.small_bytes + info.hblkhd;
  info.fordblks = info.arena - statistics.small_bytes;
  return info;
}

}  // namespace
}  // namespace polder::runtime

using namespace polder::runtime;

extern "C" {

POLDER_EXPORT void* malloc(std::size_t size) noexcept { return plain(size); }

POLDER_EXPORT void free(void* pointer) noexcept { release(pointer); }

POLDER_EXPORT void* calloc(std::size_t count, std::size_t size) noexcept {
  return zeroed(count, size, __builtin_return_address(0));
}

POLDER_EXPORT void* realloc(void* pointer, std::size_t size) noexcept { return resized(pointer, size); }

POLDER_EXPORT void* reallocarray(void* pointer, std::size_t count, std::size_t size) noexcept {
  std::size_t total;
  if (__builtin_mul_overflow(count, size, &total)) return or_no_memory(nullptr);
  return resized(pointer, total);
}

POLDER_EXPORT void* memalign(std::size_t alignment, std::size_t size) noexcept { return aligned_up(alignment, size); }

POLDER_EXPORT void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return aligned_up(alignment, size);
}

POLDER_EXPORT int posix_memalign(void** result, std::size_t alignment, std::size_t size) noexcept {
  if (alignment % sizeof(void*) != 0 || !is_power_of_two(alignment)) return EINVAL;
  void* const pointer = alignment <= kDefaultAlignment ? allocate(size) : allocate_aligned(size, alignment);
  if (pointer == nullptr) return ENOMEM;
  *result = pointer;
  return 0;
}

POLDER_EXPORT void* valloc(std::size_t size) noexcept { return aligned(polder::kPageSize, size); }

POLDER_EXPORT void* pvalloc(std::size_t size) noexcept { return whole_pages(size); }

POLDER_EXPORT std::size_t malloc_usable_size(void* pointer) noexcept { return usable_size(pointer); }

POLDER_EXPORT int malloc_trim(std::size_t) noexcept {
  polder::ThreadCache* const cache = own_cache();
  return start_manager().heap().trim(cache).value != 0 ? 1 : 0;
}

// Nothing that glibc tunes exists here. As there, only a fast-bin size out of range is an error.
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
  info.hblks = static_cast<int>(wide.hblks);
  info.hblkhd = static_cast<int>(wide.hblkhd);
  info.uordblks = static_cast<int>(wide.uordblks);
  info.fordblks = static_cast<int>(wide.fordblks);
  return info;
}

POLDER_EXPORT void malloc_stats(void) noexcept {
  const struct mallinfo2 info = heap_info();
  polder::say(polder::Message().text("system bytes     = ").number(info.arena + info.hblkhd));
  polder::say(polder::Message().text("in use bytes     = ").number(info.uordblks));
  polder::say(polder::Message().text("large runs       = ").number(info.hblks));
  polder::say(polder::Message().text("large run bytes  = ").number(info.hblkhd));
}

POLDER_EXPORT int malloc_info(int options, FILE* stream) noexcept {
  if (options != 0) return EINVAL;
  const struct mallinfo2 info = heap_info();
  std::fprintf(stream,
               "<malloc version=\"1\">\n"
               "<heap nr=\"0\">\n"
               "<total type=\"rest\" count=\"0\" size=\"%zu\"/>\n"
               "<system type=\"current\" size=\"%zu\"/>\n"
               "</heap>\n"
               "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n"
               "<system type=\"current\" size=\"%zu\"/>\n"
               "</malloc>\n",
               info.fordblks, info.arena, info.hblks, info.hblkhd, info.arena + info.hblkhd);
  return 0;
}

// Other names by which programs built for glibc reach the same functions. cfree is what linkers bound before 2.26.
POLDER_EXPORT void cfree(void* pointer) noexcept { release(pointer); }
POLDER_EXPORT void __libc_free(void* pointer) noexcept { release(pointer); }
POLDER_EXPORT void* __libc_malloc(std::size_t size) noexcept { return plain(size); }
POLDER_EXPORT void* __libc_calloc(std::size_t count, std::size_t size) noexcept {
  return zeroed(count, size, __builtin_return_address(0));
}
POLDER_EXPORT void* __libc_realloc(void* pointer, std::size_t size) noexcept { return resized(pointer, size); }
POLDER_EXPORT void* __libc_memalign(std::size_t alignment, std::size_t size) noexcept {
  return aligned_up(alignment, size);
}
POLDER_EXPORT void* __libc_valloc(std::size_t size) noexcept { return aligned(polder::kPageSize, size); }
POLDER_EXPORT void* __libc_pvalloc(std::size_t size) noexcept { return whole_pages(size); }

}  // extern "C"
