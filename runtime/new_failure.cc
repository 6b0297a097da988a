#include "runtime/new_failure.h"

#include "base/fatal.h"
#include "runtime/dynamic_linker.h"

namespace polder::runtime {
namespace {

#if defined(POLDER_STATIC)
#define POLDER_OF_RUNTIME  // only C++ programs pull this in, and these in turn from their runtime library
#else
#define POLDER_OF_RUNTIME __attribute__((weak))
#endif

extern "C" NewHandler linked_get_new_handler() __asm__("_ZSt15get_new_handlerv") POLDER_OF_RUNTIME;
extern "C" void linked_throw_bad_alloc() __asm__("_ZSt17__throw_bad_allocv") POLDER_OF_RUNTIME;

template <typename Function>
Function* found(Function* linked, [[maybe_unused]] const char* symbol) {
#if !defined(POLDER_STATIC)
  // Loaded, but not visible to us, as in a program that loads C++ plug-ins.
  if (linked == nullptr) return reinterpret_cast<Function*>(find_in_library("libstdc++.so.6", symbol));
#endif
  return linked;
}

}  // namespace

NewHandler current_new_handler() {
  auto* const get = found(linked_get_new_handler, "_ZSt15get_new_handlerv");
  return get != nullptr ? get() : nullptr;
}

void throw_bad_alloc() {
  auto* const throw_it = found(linked_throw_bad_alloc, "_ZSt17__throw_bad_allocv");
  if (throw_it != nullptr) throw_it();
  report_new_without_runtime();
}

}  // namespace polder::runtime
