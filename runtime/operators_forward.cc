// The replaceable allocation functions of C++ that only call another one, as the standard says and libstdc++ does: a
// program may replace `operator new(size)` and `operator delete(pointer)` alone, and its replacements must then serve arrays
// and sized deletion too. So these calls go through the dynamic linker, never straight to the definitions in
// operators.cc; that is why they stand in a file of their own.
#include <cstddef>
#include <new>

#include "runtime/export.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wsized-deallocation"  // the other half of each pair is in another file
#endif

POLDER_REPLACEABLE void* operator new[](std::size_t size) { return ::operator new(size); }
POLDER_REPLACEABLE void* operator new[](std::size_t size, std::align_val_t alignment) {
  return ::operator new(size, alignment);
}

POLDER_REPLACEABLE void operator delete[](void* pointer) noexcept { ::operator delete(pointer); }
POLDER_REPLACEABLE void operator delete(void* pointer, std::size_t) noexcept { ::operator delete(pointer); }
POLDER_REPLACEABLE void operator delete(void* pointer, const std::nothrow_t&) noexcept { ::operator delete(pointer); }
POLDER_REPLACEABLE void operator delete[](void* pointer, std::align_val_t alignment) noexcept {
  ::operator delete(pointer, alignment);
}
POLDER_REPLACEABLE void operator delete(void* pointer, std::size_t, std::align_val_t alignment) noexcept {
  ::operator delete(pointer, alignment);
}
POLDER_REPLACEABLE void operator delete(void* pointer, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  ::operator delete(pointer, alignment);
}
