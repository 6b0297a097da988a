// What virtual destructors refer to, for the libraries that leave operator delete to others: nothing here is ever deleted,
// the objects lie in memory of their owners. Not exported.
#include <cstddef>

#include "base/check.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wsized-deallocation"  // the unsized one has no callers
#endif

void operator delete(void* pointer, std::size_t) noexcept {
  POLDER_CHECK(false, "the library's own objects are not deleted", pointer);
}
