// Allocations that are never evicted, handed out by the C interface like any other: from the manager's unevictable pool,
// each behind a small header that says where its pool object begins.
//
//   | … alignment … | header | payload … |
//   ^ pool object            ^ what the program gets
//
// Two kinds of memory need it. What the C library allocates while the library starts a service thread, which must not
// fault on what it serves: UnevictableScope (runtime/thread_state.h). And what the C library writes in a forked child
// before any fork handler has run, when nobody could serve a fault yet: needs_unevictable().
#pragma once

#include <cstddef>

namespace polder::runtime {

// Zeroed; `alignment` is a power of two, at least 16. Null when the pool is exhausted or `size` is above its largest
// object. Preserves errno.
void* allocate_unevictable(std::size_t size, std::size_t alignment);

// Whether the pointer lies in the pool. False before the manager runs.
bool is_unevictable(const void* pointer);

// Preconditions: is_unevictable(pointer). A pointer that is no such allocation ends the program with a report.
void free_unevictable(void* pointer);
std::size_t usable_size_unevictable(const char* operation, const void* pointer);

// Whether `calloc(count, size)` called from `caller` is the C library's second-level block of thread-specific values
// (nptl: PTHREAD_KEY_2NDLEVEL_SIZE values of sizeof(struct pthread_key_data)). reclaim_stacks() clears these blocks of all
// threads in a forked child before the child's handlers run.
[[gnu::noinline]] bool called_by_the_c_library(const void* caller);
inline bool is_thread_specific_block(std::size_t count, std::size_t size, const void* caller) {
  return count == 32 && size == 16 && called_by_the_c_library(caller);
}

}  // namespace polder::runtime
