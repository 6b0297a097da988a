#include "base/fatal.h"

#include <atomic>
#include <cstdlib>

#include "base/message.h"

namespace polder {
namespace {

// Atomic: any thread may die while another installs it. Relaxed suffices, the pointer is all there is.
constinit std::atomic<void (*)()> abort_guard{nullptr};

}  // namespace

void set_abort_guard(void (*guard)()) { abort_guard.store(guard, std::memory_order_relaxed); }

void die(const Message& message) {
  say(message);
  if (auto* const guard = abort_guard.load(std::memory_order_relaxed); guard != nullptr) guard();
  std::abort();
}

void report_double_free(const void* pointer) { die(Message().text("double free of ").pointer(pointer)); }

void report_written_after_free(const void* pointer) {
  die(Message().pointer(pointer).text(" was written to after free"));
}

void report_freed_pointer(const char* operation, const void* pointer) {
  die(Message().text(operation).text(" of ").pointer(pointer).text(", which has been freed"));
}

void report_foreign_pointer(const char* operation, const void* pointer) {
  die(Message().text(operation).text(" of ").pointer(pointer).text(", which this allocator did not hand out"));
}

void report_interior_pointer(const char* operation, const void* pointer) {
  die(Message().text(operation).text(" of ").pointer(pointer).text(", which is not the start of an allocation"));
}

void report_wrong_size(const char* operation, const void* pointer, std::size_t size, std::size_t usable) {
  die(Message()
          .text(operation)
          .text(" of ")
          .pointer(pointer)
          .text(" with size ")
          .number(size)
          .text(", which has only ")
          .number(usable)
          .text(" bytes"));
}

void report_wrong_alignment(const char* operation, const void* pointer, std::size_t alignment) {
  die(Message()
          .text(operation)
          .text(" of ")
          .pointer(pointer)
          .text(" with alignment ")
          .number(alignment)
          .text(", which it does not have"));
}

void report_arena_unavailable(std::size_t smallest_bytes, int error) {
  die(Message()
          .text("cannot reserve even ")
          .size(smallest_bytes)
          .text(" of address space: ")
          .error(error)
          .text("; raise RLIMIT_AS (ulimit -v) or set vm.overcommit_memory to 0 or 1"));
}

void report_new_without_runtime() {
  die(Message().text("operator new has no memory, and no C++ runtime library that could throw std::bad_alloc"));
}

void report_bad_option(const char* option, const char* problem) {
  say(Message().text("option ").text(option).text(": ").text(problem));
  std::_Exit(2);
}

void report_fork_without_pager(const char* step, int error) {
  die(Message()
          .text("a forked child cannot reach its evicted memory: ")
          .text(step)
          .text(": ")
          .error(error)
          .text("; the child ends here rather than read wrong bytes"));
}

void report_touched_before_child_pager(const void* address) {
  die(Message()
          .text("evicted page ")
          .pointer(address)
          .text(" was touched in a forked child before its pager could serve it; the child ends here rather than use "
                "wrong bytes"));
}

}  // namespace polder
