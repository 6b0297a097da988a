// Blocks of the C library's own allocator that reach the library: a shared object opened with RTLD_DEEPBIND binds malloc to
// libc's, and its caller frees what it returns. They go back to libc's functions, found in libc.so.6 itself, never in the
// global scope, where these names are ours. The way back does not exist: libc's free cannot tell our blocks from its own.
//
// A pointer is handed over only if it is plausibly a block of glibc's (malloc/malloc.c, arena.c, the same since 2.26):
// aligned to 16, outside every loaded object, its header readable, its size a multiple of 16 of at least 32, and
//   mmapped    (flags exactly 2) header and length on page boundaries, its last page there
//   arena      (flag 4) behind it a neighbour that knows it is in use, and at the 64 MiB boundary below it a heap whose
//              header is sane and covers it
//   main arena (neither) the same neighbour, and inside the segment that brk(2) moves, above where that ended when the
//              library started. Where brk fails glibc maps the main arena elsewhere: such blocks are not recognised
// Everything else ends the program with the report that names it, as do all in static programs.
//
// libpolder-dl.so, which replaces nobody's malloc, reports all of them (runtime/foreign_none.cc).
//
// Called outside every lock; nothing here is on a fast path.
#pragma once

#include <cstddef>

namespace polder::runtime {

// When the library starts: what brk hands out later may be glibc's.
void note_program_break();
// From the constructor: the dynamic linker can be asked without meeting its locks. What is foreign before that asks itself.
void find_c_library();

// Preconditions: neither null nor the heap's nor the unevictable pool's.
void free_foreign(void* pointer);
// Null without memory.
void* reallocate_foreign(void* pointer, std::size_t size);
std::size_t usable_size_foreign(void* pointer);

}  // namespace polder::runtime
