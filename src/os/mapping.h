// Address space. All ranges are page aligned; lengths are bytes and may not be 0. Thread-safe; none of these blocks
// except on the kernel's own mmap lock. No call here changes the thread's errno.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/errno.h"

struct iovec;

namespace polder::os {

// The system's page size; the library asserts at start that it is kPageSize.
std::size_t page_size();

// Where a reservation goes. `usual`: where the kernel puts it, which is at much the same distance from the libraries in
// every run. `random`: anywhere in a wide part of the address space; where the kernel puts it if nothing is found there,
// if randomization is off for this process (ADDR_NO_RANDOMIZE: debuggers, setarch -R), and under ThreadSanitizer.
enum class Placement : unsigned char { usual, random };

// Reserves address space that nothing may touch yet (PROT_NONE, no swap accounting), aligned to `alignment`, a power of
// two. ENOMEM when RLIMIT_AS or the address space refuses.
Result<char*> reserve(std::size_t size, std::size_t alignment, Placement placement = Placement::usual);
void release(void* address, std::size_t size);

// Makes reserved memory readable and writable; reads as zero. ENOMEM under strict overcommit or at vm.max_map_count.
Errno commit(void* address, std::size_t size);

// Private anonymous memory, committed, outside any arena. ENOMEM.
Result<char*> map_private(std::size_t size);
// Maps an open file shared and writable, from its start.
Result<char*> map_shared_file(int fd, std::size_t size);

// Drops the pages; private anonymous memory reads as zero (or faults to its userfaultfd) afterwards.
Errno discard(void* address, std::size_t size);

// Takes pages of a private mapping of a file out of the process; touched again, they are read from the file again. What was
// changed of them is lost.
void unload(void* address, std::size_t size);

// Drops many ranges with as few TLB shootdowns as the kernel allows: one process_madvise(2) on ourselves per batch where
// the kernel accepts it (measured: 1.2 µs a page against 13.6 for single calls), else one madvise(2) each.
Errno discard_all(const iovec* ranges, std::size_t count);

// Makes pages of private anonymous memory inaccessible, whatever its protection, without splitting the mapping: their
// contents are gone, touching them raises SIGSEGV, discard() and fork keep them so. EINVAL from kernels before 6.13,
// and where the program has locked the memory.
Errno install_guards(void* address, std::size_t size);
// Accessible again: they read as zero, or fault to their userfaultfd.
Errno remove_guards(void* address, std::size_t size);

// What a process made by fork finds there: a copy, or no mapping, so that touching it raises SIGSEGV. EAGAIN at
// vm.max_map_count, where the range is only a part of its mapping; ENOMEM, all the rest done, where something in it is not
// mapped.
enum class Inheritance : unsigned char { copied, nothing };
Errno set_inheritance(void* address, std::size_t size, Inheritance inheritance);

enum class HugePages : unsigned char { never, always };
// Ignored by kernels without transparent huge pages.
void advise_huge_pages(void* address, std::size_t size, HugePages policy);
enum class HugePageMode : unsigned char { never, advised, unasked };
// Where the kernel makes them: nowhere, where a program advised it, anywhere. The first call reads a file of sysfs.
HugePageMode huge_page_mode();

// Whether a hypervisor keeps page tables of its own for ours in place of the processor's second level: then the first touch
// of a page that is there takes microseconds, and a walk is not longer for small pages than it is without a hypervisor.
// The first call measures it, in 0.1 ms. False where the kernel cannot populate memory (before 5.14).
bool page_tables_are_shadowed();

// Faults the whole range writable, breaking copy-on-write with relatives left by fork (MADV_POPULATE_WRITE). Contents do
// not change. EINVAL where the program has made the range inaccessible, and from kernels before 5.14.
Errno populate_writable(void* address, std::size_t size);

// Whether the eight bytes at the address, a multiple of 8, can be read without a fault that ends the program.
bool is_readable(const void* address);

// Whether less than half of the pages of private memory are there (mincore(2)). False when the kernel does not say.
bool mostly_untouched(const void* address, std::size_t size);
// The first `least` pages or more in a row of private memory that are there; no pages when there are none, all of them
// when the kernel does not say. In pages, from `address`.
struct PresentPages {
  std::size_t first = 0;
  std::size_t count = 0;
};
PresentPages first_present(const void* address, std::size_t size, std::size_t least);

// Where the data segment ends that brk(2) moves; 0 when the kernel does not say.
std::uintptr_t program_break();

// Soft RLIMIT_AS in bytes; SIZE_MAX when unlimited.
std::size_t address_space_limit();

}  // namespace polder::os
