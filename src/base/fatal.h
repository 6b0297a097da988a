// The catalogue of fatal reports: every way in which the library ends a program, each with one line that names what was
// wrong and is death-tested on its text. Broken internal state is POLDER_CHECK's business; these are the misuses and
// losses that are somebody else's fault.
#pragma once

#include <cstddef>

namespace polder {

// The program's misuse of the heap.
[[noreturn]] void report_double_free(const void* pointer);
// Hardened heaps: what was freed was written to, or is used as if it were not.
[[noreturn]] void report_written_after_free(const void* pointer);
[[noreturn]] void report_freed_pointer(const char* operation, const void* pointer);
[[noreturn]] void report_foreign_pointer(const char* operation, const void* pointer);
[[noreturn]] void report_interior_pointer(const char* operation, const void* pointer);
[[noreturn]] void report_wrong_size(const char* operation, const void* pointer, std::size_t size, std::size_t usable);
[[noreturn]] void report_wrong_alignment(const char* operation, const void* pointer, std::size_t alignment);

// Surroundings that leave no correct way on.
[[noreturn]] void report_arena_unavailable(std::size_t smallest_bytes, int error);
[[noreturn]] void report_new_without_runtime();
// Before the program has started: exit status 2, as for a command line, and no core.
[[noreturn]] void report_bad_option(const char* option, const char* problem);
[[noreturn]] void report_fork_without_pager(const char* step, int error);
[[noreturn]] void report_touched_before_child_pager(const void* address);

// Writes the message and aborts. For the catalogue's own use and for the os layer.
class Message;
[[noreturn]] void die(const Message& message);

// Called before abort(): takes away the program's handler of SIGABRT where it must not run. The os layer installs it.
void set_abort_guard(void (*guard)());

}  // namespace polder
