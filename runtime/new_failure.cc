#include "runtime/new_failure.h"

#include <dlfcn.h>

#include "base/fatal.h"
#include "base/message.h"

namespace polder::runtime {
namespace {

extern "C" NewHandler weak_get_new_handler() __asm__("_ZSt15get_new_handlerv") __attribute__((weak));
extern "C" void weak_throw_bad_alloc() __asm__("_ZSt17__throw_bad_allocv") __attribute__((weak));

// From libstdc++ if it is loaded at all, as it is without being visible to us in a program that loads C++ plug-ins.
void* find_in_runtime(const char* symbol) {
  void* const library = dlopen("libstdc++.so.6", RTLD_NOLOAD | RTLD_LAZY);
  if (library == nullptr) return nullptr;
  void* const address = dlsym(library, symbol);
  dlclose(library);  // undoes dlopen's reference only; whoever called operator new holds another
  return address;
}

template <typename Function>
Function* found(Function* weak, const char* symbol) {
  return weak != nullptr ? weak : reinterpret_cast<Function*>(find_in_runtime(symbol));
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
