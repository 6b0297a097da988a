// What the libraries made of this folder (runtime/CMakeLists.txt) differ in besides the files they are made of.
//
//   libpolder.so     preloaded or linked: replaces malloc, operators, madvise, clone, _Fork. Initial-exec TLS
//   libpolder.a      the same for a program that links it, static or not; a program's own operators go before these, and a
//                    static program cannot call _Fork. POLDER_STATIC
//   libpolder-dl.so  replaces nothing, only the prefixed names; TLS that dlopen allows. POLDER_BESIDE
#pragma once

namespace polder::runtime {

#if defined(POLDER_BESIDE)
inline constexpr bool kReplacesMalloc = false;
#else
inline constexpr bool kReplacesMalloc = true;
#endif

}  // namespace polder::runtime
