// A shared object that allocates as early as can be: from the resolver of an indirect function, which runs while the
// dynamic linker relocates whoever calls it, and from a constructor, which also frees what a plug-in with libc's malloc has
// allocated (POLDER_TEST_PLUGIN). Both are over before a preloaded library's constructors begin.
#include <dlfcn.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

// Through pointers that the compiler cannot see through: it may leave out what has no effect.
void* (*volatile do_malloc)(std::size_t) = std::malloc;
void (*volatile do_free)(void*) = std::free;

char* kept = nullptr;
bool foreign_freed = false;

int answer() { return kept != nullptr && kept[0] == 'r' && kept[99999] == 'r' ? 42 : -1; }

[[gnu::constructor]] void construct() {
  const char* const path = std::getenv("POLDER_TEST_PLUGIN");
  if (path == nullptr) return;
  void* const plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (plugin == nullptr) return;
  auto* const allocate = reinterpret_cast<void* (*)(std::size_t)>(dlsym(plugin, "plugin_malloc"));
  for (const std::size_t size : {std::size_t{100}, std::size_t{10000}, std::size_t{10} << 20}) {
    void* const block = allocate(size);
    std::memset(block, 1, size);
    std::free(block);
  }
  foreign_freed = true;
}

}  // namespace

extern "C" {

int (*resolve_chosen())() {
  for (std::size_t size = 1; size < 100000; size = size * 3 + 1) {
    void* const block = do_malloc(size);
    std::memset(block, 'r', size);
    do_free(block);
  }
  for (int index = 0; index < 1000; ++index) do_free(do_malloc(64));
  kept = static_cast<char*>(do_malloc(100000));
  std::memset(kept, 'r', 100000);
  return answer;
}

__attribute__((visibility("default"), ifunc("resolve_chosen"))) int chosen();
}

__attribute__((visibility("default"))) bool was_foreign_freed() { return foreign_freed; }
