// runtime/foreign.h for the library that stands beside another malloc: whatever is not of its heap was given to it by
// mistake.
#include "base/fatal.h"
#include "runtime/foreign.h"

namespace polder::runtime {

void note_program_break() {}

void find_c_library() {}

void free_foreign(void* pointer) { report_foreign_pointer("free", pointer); }

void* reallocate_foreign(void* pointer, std::size_t) { report_foreign_pointer("realloc", pointer); }

std::size_t usable_size_foreign(void* pointer) { report_foreign_pointer("malloc_usable_size", pointer); }

}  // namespace polder::runtime
