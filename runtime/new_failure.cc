#include "runtime/new_failure.h"

#include "base/fatal.h"
#include "runtime/dynamic_linker.h"

namespace polder::runtime {
namespace {

extern "C" NewHandler weak_get_new_handler() __asm__("_ZSt15get_new_handlerv") __attribute__((weak));
extern "C" void weak_throw_bad_alloc() __asm__("_ZSt17__throw_bad_allocv") __attribute__((weak));

template <typename Function>
Function* found(Function* weak, const char* symbol) {
  if (weak != nullptr) return weak;
  // Loaded, but not visible to us, as in a program that loads C++ plug-ins.
  return reinterpret_cast<Function*>(find_in_library("libstdc++.so.6", symbol));
}

}  // namespace

NewHandler current_new_handler() {
  auto* const get = found(weak_get_new_handler, "_ZSt15get_new_handlerv");
  return get != nullptr ? get() : nullptr;
}

void throw_bad_alloc() {
  auto* const throw_it = found(weak_throw_bad_alloc, "_ZSt17__throw_bad_allocv");
  if (throw_it != nullptr) throw_it();
  report_new_without_runtime();
}

}  // namespace polder::runtime
