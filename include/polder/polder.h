/*
 * polder.h: what a program may ask of the Polder heap that it runs on, whether it links libpolder.so or libpolder.a, was
 * started with the library preloaded, or uses libpolder-dl.so beside another malloc. C99 and C++.
 *
 * Every function may be called from any thread at any time, except from signal handlers and between fork and exec in a
 * child of a process that used vfork. Sizes are bytes.
 *
 * A program that does not link the library declares the functions weak and checks that they are there:
 *
 *     #pragma weak polder_set_memory_limit
 *     if (polder_set_memory_limit) polder_set_memory_limit(512u << 20);
 */
#ifndef POLDER_POLDER_H
#define POLDER_POLDER_H

#include <stddef.h>
#include <stdint.h>

#define POLDER_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#define POLDER_NOEXCEPT noexcept
#else
#define POLDER_NOEXCEPT
#endif

/*
 * The malloc family by names of its own, of the same heap: what a program uses whose malloc is another allocator's, with
 * libpolder-dl.so, which takes nothing over and may be opened at any time with dlopen. In the other libraries these are
 * the same functions as malloc and its kin, and pointers of both kinds mix.
 *
 * Each behaves as the one whose name it bears: at least 16 bytes aligned; ENOMEM in errno where there is no memory; errno
 * is otherwise untouched. polder_free_sized takes the size that was asked for, polder_free_aligned_sized also the
 * alignment; sizes and alignments that the block cannot have end the program with a line on standard error, as do
 * pointers that are none of this heap. polder_malloc_trim gives back what is idle, and returns 1 if that was anything.
 *
 * Functions registered with pthread_atfork before the library was loaded may not call these. Memory of libpolder-dl.so
 * survives fork, but it does not see clone, _Fork and madvise: the child does not find what can be evicted, so that
 * touching it raises SIGSEGV; discarded pages may come back as they were.
 */
void* polder_malloc(size_t size) POLDER_NOEXCEPT;
void* polder_calloc(size_t count, size_t size) POLDER_NOEXCEPT;
void* polder_realloc(void* pointer, size_t size) POLDER_NOEXCEPT;
void* polder_reallocarray(void* pointer, size_t count, size_t size) POLDER_NOEXCEPT;
void* polder_aligned_alloc(size_t alignment, size_t size) POLDER_NOEXCEPT;
int polder_posix_memalign(void** result, size_t alignment, size_t size) POLDER_NOEXCEPT;
void polder_free(void* pointer) POLDER_NOEXCEPT;
void polder_free_sized(void* pointer, size_t size) POLDER_NOEXCEPT;
void polder_free_aligned_sized(void* pointer, size_t alignment, size_t size) POLDER_NOEXCEPT;
size_t polder_malloc_usable_size(void* pointer) POLDER_NOEXCEPT;
int polder_malloc_trim(void) POLDER_NOEXCEPT;

/* Version of the library that runs, "major.minor.patch"; a string that lives as long as the process. */
const char* polder_version(void) POLDER_NOEXCEPT;

/*
 * Sets how much memory the heap may keep resident, its own state included; 0 means no limit. A higher limit takes effect
 * at once. A lower one too for everything allocated from now on, and the call blocks until what is resident fits it. It
 * replaces the limit that the process was started with, as `polder limit` does from outside.
 *
 * Returns 0, or an error number (errno keeps its value):
 *   EINVAL     below the minimum of 8 MiB, or less than the heap needs for its own state by now; nothing changed
 *   ETIMEDOUT  the new limit is in force, but more than that is still resident: what is left is locked, the swap file is
 *              full or too slow, or the machine does not allow paging. Allocations fail until it fits
 */
int polder_set_memory_limit(size_t bytes) POLDER_NOEXCEPT;

/* The limit in force; 0 means none. */
size_t polder_get_memory_limit(void) POLDER_NOEXCEPT;

/*
 * Counters of this process, since it was started or forked. Those marked "now" rise and fall with what they name, all
 * others only grow. They are read one by one while other threads go on, so they need not add up exactly.
 */
struct polder_statistics {
  size_t size; /* set by the caller: sizeof(struct polder_statistics) */

  uint64_t limit_bytes;        /* now; 0: none */
  uint64_t charged_bytes;      /* now: bound on what is resident, never above the limit */
  uint64_t peak_charged_bytes; /* highest charged_bytes */
  uint64_t metadata_bytes;     /* now: the part of charged_bytes that is the heap's own state */
  uint64_t stored_bytes;       /* now: contents that are in the swap file or known as a pattern instead of in memory */

  uint64_t faults;            /* page faults that the pager served */
  uint64_t soft_faults;       /* of these, on pages that were about to be evicted and could simply be put back */
  uint64_t fills_zero;        /* pages filled: fresh, reading as zero */
  uint64_t fills_swap;        /* pages filled from the swap file because a thread waited for them */
  uint64_t fills_same_filled; /* pages filled with one repeated word */
  uint64_t fills_readahead;   /* pages filled from the swap file in advance */
  uint64_t fill_wait_ns;      /* time that threads waited for fills, summed */

  uint64_t evictions;     /* pages that left memory */
  uint64_t bytes_read;    /* from the swap file */
  uint64_t bytes_written; /* to the swap file */
  uint64_t io_errors;     /* reads and writes that failed */
  uint64_t throttled_ns;  /* time that allocating threads waited for room, summed */
};

/*
 * Fills `statistics` and sets its size to what was filled. Does not block.
 * Returns 0, or EINVAL when size is smaller than that of this version's structure.
 */
int polder_get_statistics(struct polder_statistics* statistics) POLDER_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* POLDER_POLDER_H */
