// Prints what every function of the malloc family does with good and bad arguments. The text must not depend on whose
// malloc runs: the test compares a run with the library preloaded with a run on glibc's.
#include <malloc.h>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <utility>
#include <vector>

extern "C" void* __libc_memalign(std::size_t, std::size_t);
extern "C" void* __libc_malloc(std::size_t);
extern "C" void __libc_free(void*);
// C23, which not every glibc has.
extern "C" [[gnu::weak]] void free_sized(void*, std::size_t);
extern "C" [[gnu::weak]] void free_aligned_sized(void*, std::size_t, std::size_t);

namespace {

// Through pointers that the compiler cannot see through: it knows malloc well enough to leave calls out.
void* (*volatile do_malloc)(std::size_t) = malloc;
void (*volatile do_free)(void*) = free;
void* (*volatile do_calloc)(std::size_t, std::size_t) = calloc;
void* (*volatile do_realloc)(void*, std::size_t) = realloc;
void* (*volatile do_reallocarray)(void*, std::size_t, std::size_t) = reallocarray;
void* (*volatile do_memalign)(std::size_t, std::size_t) = memalign;
void* (*volatile do_aligned_alloc)(std::size_t, std::size_t) = aligned_alloc;
int (*volatile do_posix_memalign)(void**, std::size_t, std::size_t) = posix_memalign;
void* (*volatile do_valloc)(std::size_t) = valloc;
void* (*volatile do_pvalloc)(std::size_t) = pvalloc;
std::size_t (*volatile do_usable)(void*) = malloc_usable_size;

constexpr int kMarker = 4711;  // errno before each call

unsigned long low_bits(const void* pointer, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(pointer) & (alignment - 1);
}

// One line: whether there was memory, errno, whether all of it can be used, its misalignment.
void show(const char* what, std::size_t a, std::size_t b, void* pointer, std::size_t size, std::size_t alignment) {
  const int error = errno;
  std::printf("%s(%#zx, %#zx): %s errno=%d", what, a, b, pointer != nullptr ? "memory" : "null", error);
  if (pointer != nullptr) {
    std::printf(" usable=%d misalignment=%lu", do_usable(pointer) >= size, low_bits(pointer, alignment));
    if (size < (std::size_t{1} << 24)) std::memset(pointer, 0xa5, size);
  }
  std::printf("\n");
}

const std::size_t kSizes[] = {0,       1,
                              7,       8,
                              15,      16,
                              17,      24,
                              25,      63,
                              64,      65,
                              127,     128,
                              129,     1023,
                              1024,    1025,
                              4095,    4096,
                              4097,    8191,
                              8193,    32767,
                              32768,   32769,
                              65535,   65536,
                              65537,   131072,
                              1 << 20, 3 << 20,
                              1 << 21, (1 << 21) + 1,
                              5 << 20};
const std::size_t kImpossible[] = {
    PTRDIFF_MAX,     std::size_t{PTRDIFF_MAX} - 1, std::size_t{PTRDIFF_MAX} + 1, SIZE_MAX, SIZE_MAX - 15,
    SIZE_MAX - 4095, SIZE_MAX / 2 + 4096};

void test_malloc() {
  for (const std::size_t size : kSizes) {
    errno = kMarker;
    void* const pointer = do_malloc(size);
    show("malloc", size, 0, pointer, size, 16);
    errno = kMarker;
    do_free(pointer);
    std::printf("free: errno=%d\n", errno);
  }
  for (const std::size_t size : kImpossible) {
    errno = kMarker;
    show("malloc", size, 0, do_malloc(size), size, 16);
  }
  errno = kMarker;
  do_free(nullptr);
  std::printf("free(null): errno=%d\n", errno);
  void* const first = do_malloc(0);
  void* const second = do_malloc(0);
  std::printf("malloc(0) twice: %s\n", first != second ? "different" : "the same");
  do_free(first);
  do_free(second);
}

// Frees that give memory back to the kernel, or wait for it, keep errno like any other; so do the allocations before.
void test_errno_of_much() {
  constexpr std::size_t kLarge = 40;
  constexpr std::size_t kSmall = 100000;
  bool kept = true;
  for (const auto& [count, size] : {std::pair{kLarge, std::size_t{8} << 20}, std::pair{kSmall, std::size_t{400}}}) {
    std::vector<void*> blocks;
    blocks.reserve(count);
    errno = kMarker;
    for (std::size_t index = 0; index < count; ++index) {
      blocks.push_back(do_malloc(size));
      for (std::size_t offset = 0; offset < size; offset += 4096) static_cast<char*>(blocks.back())[offset] = 1;
      kept = kept && errno == kMarker;
    }
    for (void*& block : blocks) {
      block = do_realloc(block, size - size / 3);
      kept = kept && errno == kMarker;
    }
    for (void* block : blocks) {
      do_free(block);
      kept = kept && errno == kMarker;
    }
    malloc_trim(0);
    kept = kept && errno == kMarker;
  }
  std::printf("errno of large and many blocks: %s\n", kept ? "kept" : "changed");
}

bool all_zero(const unsigned char* bytes, std::size_t size) {
  for (std::size_t index = 0; index < size; ++index) {
    if (bytes[index] != 0) return false;
  }
  return true;
}

void test_calloc() {
  for (int round = 0; round < 3; ++round) {  // later rounds get memory that was dirtied
    for (const std::size_t size : kSizes) {
      errno = kMarker;
      auto* const pointer = static_cast<unsigned char*>(do_calloc(size, 3));
      std::printf("calloc(%#zx, 3): zero=%d\n", size, all_zero(pointer, size * 3));
      show("calloc", size, 3, pointer, size * 3, 16);
      do_free(pointer);
    }
  }
  const std::size_t cases[][2] = {{0, 0},
                                  {0, 5},
                                  {5, 0},
                                  {SIZE_MAX, 2},
                                  {2, SIZE_MAX},
                                  {SIZE_MAX, 1},
                                  {1, SIZE_MAX},
                                  {1ULL << 32, 1ULL << 32},
                                  {SIZE_MAX / 2, 2},
                                  {0, SIZE_MAX}};
  for (const auto& [count, size] : cases) {
    errno = kMarker;
    void* const pointer = do_calloc(count, size);
    show("calloc", count, size, pointer, 0, 16);
    do_free(pointer);
  }
}

void fill(unsigned char* bytes, std::size_t begin, std::size_t end) {
  for (std::size_t index = begin; index < end; ++index)
    bytes[index] = static_cast<unsigned char>(index * 7 + index / 251);
}

bool holds(const unsigned char* bytes, std::size_t end) {
  for (std::size_t index = 0; index < end; ++index) {
    if (bytes[index] != static_cast<unsigned char>(index * 7 + index / 251)) return false;
  }
  return true;
}

void test_realloc() {
  for (const std::size_t from : kSizes) {
    for (const std::size_t to : kSizes) {
      auto* pointer = static_cast<unsigned char*>(do_malloc(from));
      fill(pointer, 0, from);
      errno = kMarker;
      pointer = static_cast<unsigned char*>(do_realloc(pointer, to));
      const int error = errno;
      const std::size_t common = from < to ? from : to;
      std::printf("realloc(%#zx -> %#zx): %s errno=%d contents=%d usable=%d misalignment=%lu\n", from, to,
                  pointer != nullptr ? "memory" : "null", error, pointer == nullptr || holds(pointer, common),
                  pointer == nullptr || do_usable(pointer) >= to, low_bits(pointer, 16));
      if (pointer != nullptr) fill(pointer, common, to);
      do_free(pointer);
    }
  }
  for (const std::size_t size : kImpossible) {
    auto* const pointer = static_cast<unsigned char*>(do_malloc(100));
    fill(pointer, 0, 100);
    errno = kMarker;
    show("realloc", 100, size, do_realloc(pointer, size), size, 16);
    std::printf("realloc: old contents=%d\n", holds(pointer, 100));
    do_free(pointer);
  }
  errno = kMarker;
  void* const fresh = do_realloc(nullptr, 0);
  show("realloc(null)", 0, 0, fresh, 0, 16);
  errno = kMarker;
  void* const grown = do_realloc(fresh, 100);
  show("realloc(of 0)", 0, 100, grown, 100, 16);
  errno = kMarker;
  show("realloc", 100, 0, do_realloc(grown, 0), 0, 16);

  // Byte by byte, as strings grow.
  unsigned char* string = nullptr;
  bool right = true;
  for (std::size_t size = 1; size < 70000; ++size) {
    string = static_cast<unsigned char*>(do_realloc(string, size));
    fill(string, size - 1, size);
    if (size % 1000 == 0) right = right && holds(string, size);
  }
  while (true) {
    const std::size_t size = do_usable(string) / 2;
    if (size < 100) break;
    string = static_cast<unsigned char*>(do_realloc(string, size));
    right = right && holds(string, size);
  }
  std::printf("realloc by small steps: contents=%d\n", right);
  do_free(string);
}

void test_reallocarray() {
  const std::size_t cases[][2] = {{10, 10}, {0, 10}, {10, 0}, {SIZE_MAX, 2}, {1ULL << 33, 1ULL << 33}, {SIZE_MAX, 1}};
  for (const auto& [count, size] : cases) {
    void* const old = do_malloc(50);
    errno = kMarker;
    void* const pointer = do_reallocarray(old, count, size);
    const bool freed = pointer == nullptr && (count == 0 || size == 0);
    show("reallocarray", count, size, pointer, 0, 16);
    do_free(pointer != nullptr || freed ? pointer : old);
    errno = kMarker;
    void* const fresh = do_reallocarray(nullptr, count, size);
    show("reallocarray(null)", count, size, fresh, 0, 16);
    do_free(fresh);
  }
}

void test_alignment() {
  for (std::size_t alignment = 1; alignment <= (std::size_t{8} << 20); alignment *= 2) {
    for (const std::size_t size : kSizes) {
      errno = kMarker;
      void* pointer = do_memalign(alignment, size);
      show("memalign", alignment, size, pointer, size, alignment);
      do_free(pointer);
      errno = kMarker;
      pointer = do_aligned_alloc(alignment, size);
      show("aligned_alloc", alignment, size, pointer, size, alignment);
      do_free(pointer);
      pointer = nullptr;
      errno = kMarker;
      const int result = do_posix_memalign(&pointer, alignment, size);
      std::printf("posix_memalign: %d\n", result);
      show("posix_memalign", alignment, size, pointer, size, alignment);
      do_free(pointer);
    }
  }
  // Values that are no powers of two: memalign rounds them up.
  const std::size_t odd[][2] = {{0, 16}, {3, 16}, {17, 32}, {24, 32}, {33, 64}, {48, 64}, {100, 128}, {4097, 8192}};
  for (const auto& [alignment, rounded] : odd) {
    errno = kMarker;
    void* pointer = do_memalign(alignment, 100);
    show("memalign", alignment, 100, pointer, 100, rounded);
    do_free(pointer);
    errno = kMarker;
    pointer = do_aligned_alloc(alignment, 100);
    show("aligned_alloc", alignment, 100, pointer, 100, rounded);
    do_free(pointer);
    pointer = &pointer;
    void** const untouched = static_cast<void**>(pointer);
    errno = kMarker;
    const int result = do_posix_memalign(&pointer, alignment, 100);
    std::printf("posix_memalign(%zu): %d errno=%d untouched=%d\n", alignment, result, errno, pointer == untouched);
    if (result == 0) do_free(pointer);
  }
  for (const std::size_t alignment : {SIZE_MAX, SIZE_MAX / 2 + 2, SIZE_MAX / 2 + 1, SIZE_MAX / 4 + 1}) {
    errno = kMarker;
    show("memalign", alignment, 100, do_memalign(alignment, 100), 100, 16);
  }
  for (const std::size_t size : kImpossible) {
    errno = kMarker;
    show("memalign", 64, size, do_memalign(64, size), size, 64);
    errno = kMarker;
    show("aligned_alloc", 4096, size, do_aligned_alloc(4096, size), size, 64);
    void* pointer = nullptr;
    std::printf("posix_memalign(64, %#zx): %d\n", size, do_posix_memalign(&pointer, 64, size));
    errno = kMarker;
    show("valloc", size, 0, do_valloc(size), size, 64);
    errno = kMarker;
    show("pvalloc", size, 0, do_pvalloc(size), size, 64);
  }
  for (const std::size_t size : kSizes) {
    errno = kMarker;
    void* pointer = do_valloc(size);
    show("valloc", size, 0, pointer, size, 4096);
    do_free(pointer);
    errno = kMarker;
    pointer = do_pvalloc(size);
    show("pvalloc", size, 0, pointer, (size + 4095) & ~std::size_t{4095}, 4096);
    do_free(pointer);
  }
  // Aligned memory goes through realloc like any other.
  for (std::size_t alignment = 32; alignment <= 65536; alignment *= 2) {
    auto* pointer = static_cast<unsigned char*>(do_memalign(alignment, 3000));
    fill(pointer, 0, 3000);
    pointer = static_cast<unsigned char*>(do_realloc(pointer, 300000));
    std::printf("realloc of memalign(%zu): contents=%d\n", alignment, holds(pointer, 3000));
    do_free(pointer);
  }
}

void test_sized_free() {
  const auto sized = [](void* block, std::size_t size) {
    free_sized != nullptr ? free_sized(block, size) : free(block);
  };
  const auto aligned_sized = [](void* block, std::size_t alignment, std::size_t size) {
    free_aligned_sized != nullptr ? free_aligned_sized(block, alignment, size) : free(block);
  };
  errno = kMarker;
  sized(nullptr, 0);
  sized(nullptr, 100);
  aligned_sized(nullptr, 64, 100);
  for (const std::size_t size : kSizes) {
    sized(do_malloc(size), size);
    sized(do_calloc(size, 2), size * 2);
    sized(do_realloc(do_malloc(100), size + 1), size + 1);
    for (std::size_t alignment = 1; alignment <= (std::size_t{4} << 20); alignment *= 2) {
      aligned_sized(do_aligned_alloc(alignment, size), alignment, size);
    }
  }
  std::printf("sized free: errno=%d\n", errno);
}

void test_the_rest() {
  std::printf("malloc_usable_size(null): %zu\n", do_usable(nullptr));
  // All of the usable size may be used, and survives.
  bool right = true;
  for (std::size_t size = 0; size < 3000; ++size) {
    auto* const pointer = static_cast<unsigned char*>(do_malloc(size));
    const std::size_t usable = do_usable(pointer);
    fill(pointer, 0, usable);
    void* const neighbour = do_malloc(size);
    std::memset(neighbour, 0xff, do_usable(neighbour));
    right = right && usable >= size && holds(pointer, usable);
    do_free(pointer);
    do_free(neighbour);
  }
  std::printf("usable sizes: %d\n", right);

  errno = kMarker;
  for (const int parameter : {M_MXFAST, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_CHECK_ACTION,
                              M_ARENA_TEST, M_ARENA_MAX, M_NLBLKS, M_GRAIN, M_KEEP, 0, 12345, -12345}) {
    for (const int value : {1, 2, 64, 160, 161, 100000, 1 << 20, 1 << 25}) {
      std::printf("mallopt(%d, %d): %d errno=%d\n", parameter, value, mallopt(parameter, value), errno);
    }
  }
  std::printf("mallopt(M_PERTURB, 0): %d errno=%d\n", mallopt(M_PERTURB, 0), errno);

  void* blocks[200];
  for (void*& block : blocks) block = do_malloc(1000);
  const struct mallinfo2 wide = mallinfo2();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const struct mallinfo narrow = mallinfo();
#pragma GCC diagnostic pop
  std::printf("mallinfo2: in use at least what is: %d, total covers it: %d, mallinfo too: %d\n",
              wide.uordblks >= 200000, wide.arena + wide.hblkhd >= wide.uordblks + wide.hblkhd,
              narrow.uordblks >= 200000);
  for (void* block : blocks) do_free(block);

  errno = kMarker;
  const int refused = malloc_info(1, stdout);
  std::printf("malloc_info(1): %d errno=%d\n", refused, errno);
  char* text = nullptr;
  std::size_t length = 0;
  FILE* const stream = open_memstream(&text, &length);
  const int written = malloc_info(0, stream);
  std::fclose(stream);
  std::printf("malloc_info(0): %d starts=%d ends=%d\n", written, std::strncmp(text, "<malloc version=\"1\">", 20) == 0,
              length > 10 && std::strcmp(text + length - 10, "</malloc>\n") == 0);
  do_free(text);
  const int trimmed = malloc_trim(0);
  std::printf("malloc_trim: %d\n", trimmed == 0 || trimmed == 1);

  // Names from glibc's inside that programs mix with the public ones.
  do_free(__libc_malloc(100));
  do_free(__libc_memalign(64, 100));
  __libc_free(do_malloc(100));
}

}  // namespace

int main() {
  test_malloc();
  test_calloc();
  test_realloc();
  test_reallocarray();
  test_alignment();
  test_errno_of_much();
  test_sized_free();
  test_the_rest();
  return 0;
}
