// Opened with RTLD_DEEPBIND: malloc here is libc's, whatever the program's is.
#include <malloc.h>
#include <cstddef>
#include <cstdlib>

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void* plugin_malloc(std::size_t size) { return std::malloc(size); }
EXPORTED void* plugin_calloc(std::size_t size) { return std::calloc(1, size); }
EXPORTED void* plugin_memalign(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }
EXPORTED void* plugin_realloc(void* block, std::size_t size) { return std::realloc(block, size); }
EXPORTED void plugin_free(void* block) { std::free(block); }
EXPORTED std::size_t plugin_usable_size(void* block) { return malloc_usable_size(block); }

// What its allocator has out.
EXPORTED std::size_t plugin_in_use() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// Whose malloc it is.
EXPORTED void* (*plugin_allocator())(std::size_t) { return std::malloc; }
