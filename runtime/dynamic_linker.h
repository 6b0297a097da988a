// What the dynamic linker tells, to those who are not on the init path. dlsym is weak:
// a static program has none, unless it uses it.
#pragma once

#include <dlfcn.h>
#include <gnu/libc-version.h>
#include <link.h>

#pragma weak dlsym

namespace polder::runtime {

// The loaded object that the address lies in, or null. Takes no lock and does not allocate.
inline const struct link_map* object_of(const void* address) {
  struct dl_find_object found;
  return _dl_find_object(const_cast<void*>(address), &found) == 0 ? found.dlfo_link_map : nullptr;
}

// The C library's object, by an address that no program takes (which could give it another home in the executable); the
// program's own where it is linked in.
inline const struct link_map* c_library_object() {
  return object_of(reinterpret_cast<const void*>(&gnu_get_libc_version));
}

#if !defined(POLDER_STATIC)  // dlopen in a static program is worth a warning to the linker

// The symbol in a library that is loaded already, or in what that one needs; null where there is no such thing. The global
// scope is not searched.
inline void* find_in_library(const char* name, const char* symbol) {
  void* const library = dlopen(name, RTLD_NOLOAD | RTLD_LAZY);
  if (library == nullptr) return nullptr;
  void* const address = dlsym(library, symbol);
  dlclose(library);  // undoes dlopen's reference only
  return address;
}

// The C library's definition of what others define too. Mostly it comes right behind ours, and to look there does not
// allocate.
inline void* find_in_c_library(const char* symbol) {
  void* const next = dlsym(RTLD_NEXT, symbol);
  return next != nullptr && object_of(next) == c_library_object() ? next : find_in_library("libc.so.6", symbol);
}

#else

inline void* find_in_c_library(const char* symbol) {
  void* const next = dlsym != nullptr ? dlsym(RTLD_NEXT, symbol) : nullptr;
  return next != nullptr && object_of(next) == c_library_object() ? next : nullptr;
}

#endif

}  // namespace polder::runtime
