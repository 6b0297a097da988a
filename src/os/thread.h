// Threads of the library's own, and what it needs to know about other people's.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/errno.h"

namespace polder::os {

// Starts a detached service thread with every blockable signal blocked (those glibc needs for setuid stay open), on a
// stack of its own from map_private (`stack_size` bytes, never freed: service threads end with the process). The C
// library allocates while it creates the thread; the caller makes sure that this memory is not evictable.
// EAGAIN at RLIMIT_NPROC.
Errno start_service_thread(void (*body)(void*), void* argument, const char* name, std::size_t stack_size);

// Where the C library counts the threads after the last of which it ends the process, or null where that is unknown.
// Service threads take themselves out of the count: they must not keep a program whose threads have all ended.
void set_thread_count(std::atomic<std::uint32_t>* count);

std::uint32_t thread_id();   // kernel thread id, not cached
std::uint32_t process_id();  // not cached

// Pins the calling thread to one CPU; false when it is not in the process's allowed set.
bool run_on_cpu(unsigned cpu);
unsigned current_cpu();
unsigned cpu_count();

// The word in which the kernel keeps the CPU that the calling thread runs on (its registered rseq area), or null where
// the C library registered none. Valid until the thread ends.
const volatile std::uint32_t* current_cpu_word();

// Copies four bytes from our own address space without ever faulting the caller fatally: false when the address is not
// mapped (process_vm_readv).
bool read_word_safely(const volatile void* address, std::uint32_t* value);

std::uint64_t monotonic_ns();
void sleep_ms(unsigned milliseconds);
// Lets other runnable threads go first (sched_yield).
void yield_cpu();

// Bytes from getrandom(2), or from the clock and address-space layout where that is refused.
void random_bytes(void* destination, std::size_t size);

// Routes base/message.h to standard error (write(2), whole line, errno preserved).
void install_message_sink();

}  // namespace polder::os
