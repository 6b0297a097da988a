// The forms of array deletion that call plain array deletion; apart from it for the reason in operators_forward.cc.
#include <cstddef>
#include <new>

#include "runtime/export.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wsized-deallocation"  // the other half of each pair is in another file
#endif

POLDER_REPLACEABLE void operator delete[](void* pointer, std::size_t) noexcept { ::operator delete[](pointer); }
POLDER_REPLACEABLE void operator delete[](void* pointer, const std::nothrow_t&) noexcept {
  ::operator delete[](pointer);
}
POLDER_REPLACEABLE void operator delete[](void* pointer, std::size_t, std::align_val_t alignment) noexcept {
  ::operator delete[](pointer, alignment);
}
POLDER_REPLACEABLE void operator delete[](void* pointer, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  ::operator delete[](pointer, alignment);
}
