// Opens libpolder-dl.so late, with threads running and the room for static thread-local storage used up, and uses its heap
// from all of them beside the program's malloc. Arguments: the library, then copies of a shared object that has such storage.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "polder/polder.h"

namespace {

void* library = nullptr;

template <typename Function>
Function* symbol(const char* name) {
  auto* const found = reinterpret_cast<Function*>(dlsym(library, name));
  if (found != nullptr) return found;
  std::printf("failed: %s is missing\n", name);
  std::exit(3);
}

struct Heap {
  decltype(&polder_malloc) allocate;
  decltype(&polder_calloc) allocate_zeroed;
  decltype(&polder_realloc) resize;
  decltype(&polder_reallocarray) resize_array;
  decltype(&polder_aligned_alloc) allocate_aligned;
  decltype(&polder_posix_memalign) allocate_into;
  decltype(&polder_free) release;
  decltype(&polder_free_sized) release_sized;
  decltype(&polder_free_aligned_sized) release_aligned_sized;
  decltype(&polder_malloc_usable_size) usable_size;
  decltype(&polder_malloc_trim) trim;
  decltype(&polder_set_memory_limit) set_limit;
  decltype(&polder_get_statistics) get_statistics;

  std::uint64_t charged() const {
    trim();
    struct polder_statistics statistics;
    statistics.size = sizeof statistics;
    return get_statistics(&statistics) == 0 ? statistics.charged_bytes : 0;
  }
} heap;

void find_functions() {
  heap = {
      .allocate = symbol<decltype(polder_malloc)>("polder_malloc"),
      .allocate_zeroed = symbol<decltype(polder_calloc)>("polder_calloc"),
      .resize = symbol<decltype(polder_realloc)>("polder_realloc"),
      .resize_array = symbol<decltype(polder_reallocarray)>("polder_reallocarray"),
      .allocate_aligned = symbol<decltype(polder_aligned_alloc)>("polder_aligned_alloc"),
      .allocate_into = symbol<decltype(polder_posix_memalign)>("polder_posix_memalign"),
      .release = symbol<decltype(polder_free)>("polder_free"),
      .release_sized = symbol<decltype(polder_free_sized)>("polder_free_sized"),
      .release_aligned_sized = symbol<decltype(polder_free_aligned_sized)>("polder_free_aligned_sized"),
      .usable_size = symbol<decltype(polder_malloc_usable_size)>("polder_malloc_usable_size"),
      .trim = symbol<decltype(polder_malloc_trim)>("polder_malloc_trim"),
      .set_limit = symbol<decltype(polder_set_memory_limit)>("polder_set_memory_limit"),
      .get_statistics = symbol<decltype(polder_get_statistics)>("polder_get_statistics"),
  };
}

std::atomic<bool> failed{false};

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s\n", what);
  failed = true;
}

struct Block {
  unsigned char* memory;
  std::size_t size;
  unsigned mark;

  void fill() const {
    for (std::size_t index = 0; index < size; ++index) memory[index] = static_cast<unsigned char>(mark + index * 3);
  }
  bool holds() const {
    for (std::size_t index = 0; index < size; ++index) {
      if (memory[index] != static_cast<unsigned char>(mark + index * 3)) return false;
    }
    return true;
  }
};

void check_functions() {
  errno = 4711;
  void* pointer = heap.allocate(100);
  expect(heap.usable_size(pointer) >= 100, "usable size");
  pointer = heap.resize(pointer, 100000);
  heap.release_sized(pointer, 100000);
  pointer = heap.allocate_zeroed(1000, 7);
  expect(pointer != nullptr && *static_cast<char*>(pointer) == 0, "calloc");
  pointer = heap.resize_array(pointer, 100, 100);
  heap.release(pointer);
  pointer = heap.allocate_aligned(4096, 5000);
  expect(reinterpret_cast<std::uintptr_t>(pointer) % 4096 == 0, "aligned_alloc");
  heap.release_aligned_sized(pointer, 4096, 5000);
  expect(heap.allocate_into(&pointer, 256, 100) == 0 && reinterpret_cast<std::uintptr_t>(pointer) % 256 == 0,
         "posix_memalign");
  heap.release(pointer);
  heap.release(nullptr);
  expect(errno == 4711, "errno is kept");
  expect(heap.resize_array(nullptr, SIZE_MAX, 2) == nullptr && errno == ENOMEM, "overflow");
  errno = 0;
  expect(heap.allocate_zeroed(SIZE_MAX, 2) == nullptr && errno == ENOMEM, "overflow of calloc");
  expect(heap.allocate_into(&pointer, 3, 100) == EINVAL, "bad alignment");
}

// Allocates in the destructor too, after or before the library's own has run.
pthread_key_t key;
void destroy_value(void* value) {
  heap.release(value);
  void* const block = heap.allocate(3000);
  std::memset(block, 1, 3000);
  heap.release(block);
}

void churn(unsigned seed) {
  if (pthread_getspecific(key) == nullptr) pthread_setspecific(key, heap.allocate(64));
  std::vector<Block> blocks(200);
  unsigned random = seed;
  for (int round = 0; round < 20000; ++round) {
    random = random * 1103515245U + 12345U;
    Block& block = blocks[(random >> 8) % blocks.size()];
    if (block.memory != nullptr) {
      if (!block.holds()) failed = true;
      heap.release(block.memory);
    }
    block.size = (random >> 12) % (round % 100 == 0 ? 100000 : 2000);
    block.memory = static_cast<unsigned char*>(heap.allocate(block.size));
    block.mark = random;
    block.fill();
    void* const theirs = std::malloc(block.size);
    std::memset(theirs, 0xee, block.size);
    std::free(theirs);
  }
  for (const Block& block : blocks) {
    if (block.memory != nullptr && !block.holds()) failed = true;
    heap.release(block.memory);
  }
}

// Threads older than the library.
class Veterans {
 public:
  explicit Veterans(unsigned count) {
    for (unsigned index = 0; index < count; ++index) threads_.emplace_back([this, index] { run(index); });
  }
  void begin() {
    const std::lock_guard lock(mutex_);
    begun_ = true;
    condition_.notify_all();
  }
  void join() {
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void run(unsigned seed) {
    {
      std::unique_lock lock(mutex_);
      condition_.wait(lock, [this] { return begun_; });
    }
    churn(seed);
  }

  std::mutex mutex_;
  std::condition_variable condition_;
  bool begun_ = false;
  std::vector<std::thread> threads_;
};

// Twice the limit, from several threads, and in a forked child.
void exceed(std::size_t limit) {
  const int set = heap.set_limit(limit);
  expect(set == 0, "the limit is accepted");
  constexpr std::size_t kSize = 3000;
  const std::size_t count = 2 * limit / kSize / 4;
  std::vector<std::vector<Block>> blocks(4);
  const auto in_four_threads = [&blocks](auto body) {
    std::vector<std::thread> threads;
    for (auto& share : blocks) threads.emplace_back([&share, body] { body(share); });
    for (std::thread& thread : threads) thread.join();
  };
  in_four_threads([count](std::vector<Block>& share) {
    for (std::size_t index = 0; index < count; ++index) {
      share.push_back({static_cast<unsigned char*>(heap.allocate(kSize)), kSize, static_cast<unsigned>(index)});
      if (share.back().memory == nullptr) return;
      share.back().fill();
    }
  });
  const auto check = [](std::vector<Block>& share) {
    for (const Block& block : share) {
      if (block.memory == nullptr || !block.holds()) failed = true;
    }
  };
  in_four_threads(check);
  struct polder_statistics statistics;
  statistics.size = sizeof statistics;
  heap.get_statistics(&statistics);
  expect(statistics.evictions != 0 && statistics.charged_bytes <= limit, "memory was evicted");
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    for (auto& share : blocks) check(share);
    churn(77);
    _exit(failed ? 1 : 0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  expect(status == 0, "a forked child reads what was evicted");
  in_four_threads([](std::vector<Block>& share) {
    for (const Block& block : share) heap.release(block.memory);
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  Veterans veterans(4);
  int opened = 0;
  int refused = 0;
  for (int index = 2; index < argc; ++index) {
    dlopen(argv[index], RTLD_NOW | RTLD_LOCAL) != nullptr ? ++opened : ++refused;
  }
  expect(opened > 0 && refused > 0, "static thread-local storage is used up");

  void* (*const before)(std::size_t) = std::malloc;
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::printf("failed: %s\n", dlerror());
    return 3;
  }
  find_functions();
  expect(before == reinterpret_cast<void* (*)(std::size_t)>(dlsym(RTLD_DEFAULT, "malloc")), "malloc is whose it was");
  if (argc == 3 && std::strcmp(argv[2], "foreign") == 0) heap.release(std::malloc(100));
  pthread_key_create(&key, destroy_value);
  check_functions();
  veterans.begin();
  churn(100);
  veterans.join();

  std::uint64_t early = 0;
  for (unsigned generation = 0; generation < 12; ++generation) {
    std::vector<std::thread> threads;
    for (unsigned index = 0; index < 4; ++index) threads.emplace_back(churn, generation * 4 + index);
    for (std::thread& thread : threads) thread.join();
    if (generation == 2) early = heap.charged();
  }
  expect(heap.charged() < early + (4 << 20), "what ended threads had is free again");

  // Closing takes nothing away: other threads may be in it.
  void* const kept = heap.allocate(1000);
  dlclose(library);
  heap.release(kept);
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  expect(symbol<decltype(polder_malloc)>("polder_malloc") == heap.allocate, "it is the same library again");

  exceed(std::size_t{48} << 20);
  std::printf("%s\n", failed ? "failed" : "ok");
  return failed ? 1 : 0;
}
