// The four operators new that return null where the others throw: they call those, which the program may have replaced
// (operators_forward.cc), and turn what is thrown into null. So this file alone is compiled with exceptions. What the
// compiler then needs of the C++ runtime is weak; who has no such runtime has nobody who throws. In the static library it
// is not: the operators are a member of their own, which only C++ programs pull in.
#include <cstddef>
#include <new>

#include "runtime/export.h"

#ifndef POLDER_STATIC
__asm__(
    ".weak __gxx_personality_v0\n"
    ".weak __cxa_begin_catch\n"
    ".weak __cxa_end_catch\n"
    ".weak _Unwind_Resume\n"
    ".weak _ZSt9terminatev\n");
#endif

POLDER_REPLACEABLE void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return ::operator new(size);
  } catch (...) {
    return nullptr;
  }
}

POLDER_REPLACEABLE void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return ::operator new[](size);
  } catch (...) {
    return nullptr;
  }
}

POLDER_REPLACEABLE void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  try {
    return ::operator new(size, alignment);
  } catch (...) {
    return nullptr;
  }
}

POLDER_REPLACEABLE void* operator new[](std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  try {
    return ::operator new[](size, alignment);
  } catch (...) {
    return nullptr;
  }
}
