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

// From now on this thread dies without the program's handler of SIGABRT, which may touch the heap: service threads, which
// would wait for themselves there, and a forked child that has no pager.
void bar_program();

// Where the C library counts the threads after the last of which it ends the process, or null where that is unknown.
// Service threads take themselves out of the count: they must not keep a program whose threads have all ended.
void set_thread_count(std::atomic<std::uint32_t>* count);

std::uint32_t thread_id();   // kernel thread id, not cached
std::uint32_t process_id();  // not cached

// CPUs that threads may run on. Fixed size: the kernel's largest configuration.
class CpuSet {
 public:
  static constexpr unsigned kCpus = 8192;

  // Those of the process's main thread: service threads have sets of their own.
  static CpuSet of_process();

  bool contains(unsigned cpu) const { return cpu < kCpus && (words_[cpu / kBits] >> (cpu % kBits) & 1) != 0; }
  void add(unsigned cpu) { words_[cpu / kBits] |= 1UL << (cpu % kBits); }
  // Unless it is the last one.
  void remove(unsigned cpu);
  unsigned count() const;
  unsigned limit() const;  // one more than the highest, 0 of an empty set
  const unsigned long* words() const { return words_; }

 private:
  static constexpr unsigned kBits = 8 * sizeof(unsigned long);

  unsigned long words_[kCpus / kBits] = {};
};

// Where the calling thread may run from now on; false when the kernel allows none of these CPUs.
bool run_on(const CpuSet& cpus);
bool run_on_cpu(unsigned cpu);
// The calling thread asks for short turns: woken, it goes before threads with longer ones (Linux 6.12, sched_setattr(2)).
// False where the kernel does not know that.
bool set_time_slice(std::uint64_t ns);

// Transfers of the calling thread have normal priority, whatever its scheduling class (ioprio_set(2)).
void set_normal_io_priority();

// Scheduling classes of one of the process's threads (0: the caller). In the idle class (SCHED_IDLE) it runs only where
// nobody else wants to; the way back is refused without CAP_SYS_NICE or an RLIMIT_NICE of at least 20 less its nice value.
// True while another thread of this process runs or waits for a CPU, false while it sleeps (or where /proc is not there).
bool thread_is_runnable(std::uint32_t thread);

bool in_normal_class(std::uint32_t thread);
bool in_idle_class(std::uint32_t thread);
bool set_idle_class(std::uint32_t thread);
bool set_normal_class(std::uint32_t thread);
unsigned current_cpu();
unsigned cpu_count();  // of the process
unsigned cpu_limit();  // the numbers of the process's are below

// The word in which the kernel keeps the CPU that the calling thread runs on (its registered rseq area), or null where
// the C library registered none. Valid until the thread ends.
const volatile std::uint32_t* current_cpu_word();

// Copies four bytes from our own address space without ever faulting the caller fatally: false when the address is not
// mapped (process_vm_readv).
bool read_word_safely(const volatile void* address, std::uint32_t* value);

std::uint64_t monotonic_ns();
// Processor time of the calling thread.
std::uint64_t thread_cpu_ns();
void sleep_ms(unsigned milliseconds);
// Lets other runnable threads go first (sched_yield).
void yield_cpu();
// For loops that wait for another thread without sleeping: leaves the core to its sibling.
inline void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Bytes from getrandom(2), or from the clock and address-space layout where that is refused or not ready.
void random_bytes(void* destination, std::size_t size);

// Routes base/message.h to standard error (write(2), whole line, errno preserved).
void install_message_sink();

}  // namespace polder::os
