// Frees, resizes and measures what a plug-in opened with RTLD_DEEPBIND has allocated with libc's malloc: every block goes
// back to the allocator that it came from, whichever the program's is.
#include <dlfcn.h>
#include <malloc.h>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

namespace {

// Through pointers that the compiler cannot see through.
void (*volatile do_free)(void*) = free;
void* (*volatile do_realloc)(void*, std::size_t) = realloc;
void* (*volatile do_reallocarray)(void*, std::size_t, std::size_t) = reallocarray;
std::size_t (*volatile do_usable)(void*) = malloc_usable_size;

void* plugin = nullptr;

template <typename Function>
Function* symbol(const char* name) {
  auto* const found = reinterpret_cast<Function*>(dlsym(plugin, name));
  if (found == nullptr) std::exit(3);
  return found;
}

struct Plugin {
  void* (*allocate)(std::size_t);
  void* (*allocate_zeroed)(std::size_t);
  void* (*allocate_aligned)(std::size_t, std::size_t);
  void* (*resize)(void*, std::size_t);
  void (*release)(void*);
  std::size_t (*usable_size)(void*);
  std::size_t (*in_use)();
} theirs;

bool failed = false;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s\n", what);
  failed = true;
}

bool is_libcs(void* (*function)(std::size_t)) {
  Dl_info its;
  Dl_info libcs;
  if (dladdr(reinterpret_cast<void*>(function), &its) == 0) return false;
  if (dladdr(dlsym(RTLD_DEFAULT, "gnu_get_libc_version"), &libcs) == 0) return false;
  return its.dli_fbase == libcs.dli_fbase;
}

void fill(void* block, std::size_t size, unsigned seed) {
  for (std::size_t index = 0; index < size; ++index) {
    static_cast<unsigned char*>(block)[index] = static_cast<unsigned char>(index * 7 + seed);
  }
}

bool holds(const void* block, std::size_t size, unsigned seed) {
  for (std::size_t index = 0; index < size; ++index) {
    if (static_cast<const unsigned char*>(block)[index] != static_cast<unsigned char>(index * 7 + seed)) return false;
  }
  return true;
}

const std::size_t kSizes[] = {0, 1, 8, 24, 25, 100, 1000, 1032, 1033, 4096, 9000, 65536, 99999, 131072, 200000};

void exercise(unsigned seed) {
  for (const std::size_t size : kSizes) {
    errno = 4711;
    void* block = theirs.allocate(size);
    fill(block, size, seed);
    expect(do_usable(block) == theirs.usable_size(block), "their usable size");
    do_free(block);
    expect(errno == 4711, "errno");

    block = theirs.allocate_zeroed(size);
    fill(block, size, seed + 1);
    block = do_realloc(block, size * 3 + 100);
    expect(holds(block, size, seed + 1), "contents after realloc to more");
    fill(block, size * 3 + 100, seed + 2);
    block = do_reallocarray(block, size / 2 + 1, 1);
    expect(holds(block, size / 2 + 1, seed + 2), "contents after reallocarray to less");
    // Still its maker's.
    block = theirs.resize(block, size + 5000);
    expect(holds(block, size / 2 + 1, seed + 2), "contents after their realloc");
    theirs.release(block);

    for (const std::size_t alignment : {std::size_t{32}, std::size_t{256}, std::size_t{4096}, std::size_t{1} << 20}) {
      block = theirs.allocate_aligned(alignment, size);
      fill(block, size, seed + 3);
      if (alignment < 4096) {
        ::operator delete(block);
      } else {
        expect(do_realloc(block, 0) == nullptr, "realloc to nothing");
      }
    }
  }
  // Ours in between.
  void* const ours = std::malloc(1000);
  fill(ours, 1000, seed);
  expect(holds(ours, 1000, seed), "our own");
  std::free(ours);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (plugin == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 3;
  }
  theirs = {
      .allocate = symbol<void*(std::size_t)>("plugin_malloc"),
      .allocate_zeroed = symbol<void*(std::size_t)>("plugin_calloc"),
      .allocate_aligned = symbol<void*(std::size_t, std::size_t)>("plugin_memalign"),
      .resize = symbol<void*(void*, std::size_t)>("plugin_realloc"),
      .release = symbol<void(void*)>("plugin_free"),
      .usable_size = symbol<std::size_t(void*)>("plugin_usable_size"),
      .in_use = symbol<std::size_t()>("plugin_in_use"),
  };
  auto* const allocator = symbol<void* (*())(std::size_t)>("plugin_allocator");
  expect(is_libcs(allocator()), "the plug-in has libc's malloc");
  expect((allocator() == std::malloc) == is_libcs(std::malloc), "and the program only if it is libc's");

  // The first foreign pointers arrive from many threads at once, out of arenas of their own.
  std::vector<std::thread> threads;
  for (unsigned index = 0; index < 12; ++index) threads.emplace_back(exercise, index * 10);
  for (std::thread& thread : threads) thread.join();
  exercise(99);
  // Above whatever glibc takes from its arenas.
  void* large = theirs.allocate(std::size_t{40} << 20);
  fill(large, 10000, 3);
  large = do_realloc(large, std::size_t{50} << 20);
  expect(holds(large, 10000, 3), "contents of a large block");
  do_free(large);

  // Blocks of threads that have ended, many alive at once, freed by others.
  std::vector<void*> blocks;
  std::thread([&blocks] {
    for (int index = 0; index < 5000; ++index) {
      blocks.push_back(theirs.allocate(static_cast<std::size_t>(index)));
      fill(blocks.back(), static_cast<std::size_t>(index), 5);
    }
  }).join();
  for (std::size_t index = 0; index < blocks.size(); ++index) {
    expect(holds(blocks[index], index, 5), "contents from another thread");
    do_free(blocks[index]);
  }

  // Nothing is lost on the way: twenty rounds take no more than one.
  const std::size_t before = theirs.in_use();
  for (unsigned round = 0; round < 20; ++round) exercise(round);
  const std::size_t after = theirs.in_use();
  expect(after < before + (std::size_t{1} << 20), "their memory in use does not grow");
  if (failed) std::printf("%zu bytes before, %zu after\n", before, after);
  std::printf("%s\n", failed ? "failed" : "ok");
  return failed ? 1 : 0;
}
