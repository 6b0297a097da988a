// Makes malloc work while the dynamic linker still relocates, when it calls resolvers of indirect functions and those
// allocate. The main thread's TLS block exists then, but its initial contents are copied into it only after the last
// relocation (glibc, elf/rtld.c): until then thread_state is zeros, and the fast paths cannot spare a test for null.
//
// So the library has an indirect function of its own. The static linker puts the relocation that calls its resolver behind all
// others of the library, the dynamic linker performs it before those of the objects that use malloc. What the copying later
// undoes is found again by own_cache().
//
// Part of libpolder.so alone: a static program has no TLS yet when it calls resolvers, on any malloc.
#include "runtime/thread_state.h"

namespace {

using Nothing = void (*)();

void nothing() {}

}  // namespace

extern "C" {

[[gnu::visibility("hidden")]] Nothing polder_resolve_nothing() {
  polder::runtime::thread_state.cache = polder::ThreadCache::empty();
  return nothing;
}

__attribute__((visibility("hidden"), ifunc("polder_resolve_nothing"))) void polder_nothing();

// A use, without which there is no relocation.
[[gnu::used, gnu::visibility("hidden")]] Nothing polder_early_tls = polder_nothing;
}
