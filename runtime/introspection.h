// What the heap tells about itself through glibc's interfaces. Figures are taken class by class while other threads go on:
// each class is consistent in itself.
//
//   mallinfo2  arena     bytes of slabs, the pages that are cut into objects of up to 4.5 KiB; uordblks + fordblks
//              ordblks   free objects in slabs
//              uordblks  bytes of objects that are in use or in a thread's cache
//              fordblks  the rest of the slabs
//              hblks     large runs and spans (each allocation above 4.5 KiB is one, in use or in a thread's cache), hblkhd their
//                        bytes, as in glibc not in uordblks
//              keepcost  bytes of free pages that may be resident: what malloc_trim can give back, besides empty slabs
//              smblks, usmblks, fsmblks  0, as glibc's without fast bins
//   malloc_info  glibc's elements with the same meanings: <size> counts the free objects of a class, "fast" is nothing,
//              "mmap" the large runs, <aspace> and the maximum of <system> the address space that was ever in use. Then
//              <polder> with the limit, what is charged against it, and every size class that has been used
//   malloc_stats  the totals, on standard error
#pragma once

#include <malloc.h>
#include <cstdio>

namespace polder::runtime {

struct mallinfo2 heap_info();
void write_heap_info(FILE* stream);
void say_heap_info();

}  // namespace polder::runtime
