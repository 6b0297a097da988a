// What virtual destructors refer to, for the libraries that leave operator delete to others: nothing here is ever deleted,
// the objects lie in memory of their owners. Not exported.
#include <cstddef>

#include "base/check.h"

namespace {

void refuse(void* pointer) { POLDER_CHECK(false, "the library's own objects are not deleted", pointer); }

}  // namespace

// g++ calls the sized one, clang++ the other.
void operator delete(void* pointer) noexcept { refuse(pointer); }
void operator delete(void* pointer, std::size_t) noexcept { refuse(pointer); }
