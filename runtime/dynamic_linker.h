// The dynamic linker's functions, which a static program has none of: weak, so null there. Their callers must not be on
// the init path.
#pragma once

#include <dlfcn.h>

#pragma weak dlopen
#pragma weak dlsym
#pragma weak dlclose

namespace polder::runtime {

// The symbol in a library that is loaded already, or in what that one needs; null where there is no such thing. The global
// scope is not searched.
inline void* find_in_library(const char* name, const char* symbol) {
  if (dlopen == nullptr) return nullptr;
  void* const library = dlopen(name, RTLD_NOLOAD | RTLD_LAZY);
  if (library == nullptr) return nullptr;
  void* const address = dlsym(library, symbol);
  dlclose(library);  // undoes dlopen's reference only
  return address;
}

}  // namespace polder::runtime
