// System calls that the program makes and the library intercepts: passed on unchanged where they do not concern it. No
// call changes the thread's errno.
#pragma once

#include <cstddef>

#include "base/errno.h"

namespace polder::os {

// madvise(2) with the program's own arguments.
Errno pass_madvise(void* address, std::size_t size, int advice);

}  // namespace polder::os
