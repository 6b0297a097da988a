// The handlers that the library has around fork().
//
//   prepare   runs last of all prepare handlers, because it is registered before any constructor has run: others may
//             still allocate. Takes the C library's lock of its list of streams, then the manager's locks
//   child     runs first of all child handlers: others find a heap that works
//
// Before the child handlers glibc clears the locks of all streams, and the child's pager starts as any thread does: glibc
// looks up the locale's character tables and every module's thread-local variables. All of that lives in the heap. So the
// prepare handler, after eviction has been stopped, touches it: its pages are resident when the child is made.
#pragma once

namespace polder::runtime {

// Called once, when the manager starts.
void install_fork_handlers();

// The handlers, for ways of making a process that do not call them. Precondition: the manager runs.
void before_fork();
void after_fork_in_parent();
void after_fork_in_child();

}  // namespace polder::runtime
