// One misuse of the heap per name; the test checks the report and the signal.
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

void (*volatile do_free)(void*) = free;
void* (*volatile do_realloc)(void*, std::size_t) = realloc;
std::size_t (*volatile do_usable)(void*) = malloc_usable_size;

char on_data[64];

void free_on_stack() {
  char here[64];
  do_free(here);
}
void free_data() { do_free(on_data); }
void realloc_data() { do_realloc(on_data, 100); }
void usable_data() { do_usable(on_data); }
void free_wild() { do_free(reinterpret_cast<void*>(0x123456789abcULL)); }

void double_free_small() {
  void* const block = std::malloc(100);
  do_free(block);
  do_free(block);
}
void double_free_later() {
  void* blocks[5000];
  for (void*& block : blocks) block = std::malloc(100);
  for (void* block : blocks) do_free(block);
  do_free(blocks[2]);
  for (void*& block : blocks) block = std::malloc(300);
  for (int round = 0; round < 2; ++round) {
    for (void*& block : blocks) block = std::malloc(100);
    for (void* block : blocks) do_free(block);
    malloc_trim(0);
  }
}
// Not the last that was freed: it is in the thread's own cache, and found when that is flushed.
void double_free_cached() {
  void* const block = std::malloc(100);
  void* const other = std::malloc(100);
  do_free(block);
  do_free(other);
  do_free(block);
  malloc_trim(0);
}
// In another thread's cache: found when the second of the two is flushed.
void* thread_frees(void* block) {
  do_free(std::malloc(100));
  do_free(block);
  return nullptr;
}
void double_free_in_threads() {
  void* const block = std::malloc(100);
  for (int i = 0; i < 2; ++i) {
    pthread_t thread;
    pthread_create(&thread, nullptr, thread_frees, block);
    pthread_join(thread, nullptr);
  }
}
// A thread that never allocated such objects passes them on: what waits for that is looked through.
void* thread_frees_twice(void* blocks) {
  for (const int index : {0, 1, 0}) do_free(static_cast<void**>(blocks)[index]);
  return nullptr;
}
void double_free_passing() {
  void* blocks[] = {std::malloc(9000), std::malloc(9000)};
  pthread_t thread;
  pthread_create(&thread, nullptr, thread_frees_twice, blocks);
  pthread_join(thread, nullptr);
}
void double_free_span() {
  void* const block = std::malloc(100'000);
  void* const neighbour = std::malloc(100'000);
  do_free(block);
  do_free(block);
  do_free(neighbour);
}
void double_free_last_span() {
  void* const block = std::malloc(100'000);
  do_free(block);
  do_free(block);
}
void double_free_large() {
  void* const block = std::malloc(1 << 20);
  do_free(block);
  do_free(block);
}
void free_inside_small() { do_free(static_cast<char*>(std::malloc(1000)) + 16); }
void free_inside_large() { do_free(static_cast<char*>(std::malloc(1 << 20)) + 4096); }
void free_inside_span() { do_free(static_cast<char*>(std::malloc(100'000)) + 4096); }
void free_unaligned() { do_free(static_cast<char*>(std::malloc(1000)) + 1); }
void realloc_inside() { do_realloc(static_cast<char*>(std::malloc(1000)) + 16, 5000); }
void realloc_freed() {
  void* const block = std::malloc(1 << 20);
  do_free(block);
  do_realloc(block, 100);
}

// C23's, which glibc 2.36 does not declare.
extern "C" [[gnu::weak]] void free_sized(void*, std::size_t);
extern "C" [[gnu::weak]] void free_aligned_sized(void*, std::size_t, std::size_t);
void sized_too_large() { free_sized(std::malloc(100), 1000); }
void sized_stack() {
  char here[64];
  free_sized(here, 64);
}
void sized_twice() {
  void* const block = std::malloc(1 << 20);
  free_sized(block, 1 << 20);
  free_sized(block, 1 << 20);
}
void aligned_sized_too_large() { free_aligned_sized(std::aligned_alloc(64, 640), 64, 4096); }
void aligned_sized_unaligned() {
  void* const block = std::malloc(100);
  free_aligned_sized(block, std::size_t{1} << 46, 100);
}

// What looks more or less like a block of glibc's allocator: a pointer behind a header of two words.
struct Fake {
  std::size_t previous_size;
  std::size_t size_and_flags;
  char payload[48];
  std::size_t next_previous_size;
  std::size_t next_size_and_flags;
};
constexpr Fake kFake{0, 64 | 1, {}, 0, 64 | 1};
alignas(16) Fake fake_data = kFake;

void free_fake(Fake* where, std::size_t flags) {
  *where = kFake;
  where->size_and_flags = 64 | flags;
  do_free(where->payload);
}
void free_fake_data() { free_fake(&fake_data, 1); }
void free_fake_arena_data() { free_fake(&fake_data, 5); }
void free_fake_stack() {
  alignas(16) Fake here;
  free_fake(&here, 1);
}
void free_fake_arena_stack() {
  alignas(16) Fake here;
  free_fake(&here, 5);
}
void free_fake_mapped_stack() {
  alignas(16) Fake here;
  free_fake(&here, 2);
}
void* thread_frees_fake(void*) {
  free_fake_arena_stack();
  return nullptr;
}
void free_fake_thread_stack() {
  pthread_t thread;
  pthread_create(&thread, nullptr, thread_frees_fake, nullptr);
  pthread_join(thread, nullptr);
}
// The start of a mapping has no header before it that could be read; and what is there may be anything.
void free_mapping() {
  char* const mapping =
      static_cast<char*>(mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(mapping, 4096, PROT_NONE);
  do_free(mapping + 4096);
}
void free_fake_in_mapping() {
  void* const mapping = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  free_fake(static_cast<Fake*>(mapping), 1);
}
void free_fake_arena_in_mapping() {
  constexpr std::size_t kArena = std::size_t{64} << 20;
  void* const mapping = mmap(nullptr, 2 * kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  free_fake(static_cast<Fake*>(mapping) + (kArena + 8192) / sizeof(Fake), 5);
}
// What the program took from brk itself.
void free_break() {
  auto* const memory = static_cast<char*>(sbrk(1 << 16));
  std::memset(memory, 0, 1 << 16);
  do_free(memory + 1024);
}

const struct {
  const char* name;
  void (*body)();
} kMisuses[] = {
    {"free_on_stack", free_on_stack},
    {"free_data", free_data},
    {"realloc_data", realloc_data},
    {"usable_data", usable_data},
    {"free_wild", free_wild},
    {"double_free_small", double_free_small},
    {"double_free_later", double_free_later},
    {"double_free_cached", double_free_cached},
    {"double_free_in_threads", double_free_in_threads},
    {"double_free_passing", double_free_passing},
    {"double_free_span", double_free_span},
    {"double_free_last_span", double_free_last_span},
    {"double_free_large", double_free_large},
    {"free_inside_small", free_inside_small},
    {"free_inside_large", free_inside_large},
    {"free_inside_span", free_inside_span},
    {"free_unaligned", free_unaligned},
    {"realloc_inside", realloc_inside},
    {"realloc_freed", realloc_freed},
    {"sized_too_large", sized_too_large},
    {"sized_stack", sized_stack},
    {"sized_twice", sized_twice},
    {"aligned_sized_too_large", aligned_sized_too_large},
    {"aligned_sized_unaligned", aligned_sized_unaligned},
    {"free_fake_data", free_fake_data},
    {"free_fake_arena_data", free_fake_arena_data},
    {"free_fake_stack", free_fake_stack},
    {"free_fake_arena_stack", free_fake_arena_stack},
    {"free_fake_mapped_stack", free_fake_mapped_stack},
    {"free_fake_thread_stack", free_fake_thread_stack},
    {"free_mapping", free_mapping},
    {"free_fake_in_mapping", free_fake_in_mapping},
    {"free_fake_arena_in_mapping", free_fake_arena_in_mapping},
    {"free_break", free_break},
};

}  // namespace

int main(int argc, char** argv) {
  for (const auto& misuse : kMisuses) {
    if (argc == 2 && std::strcmp(argv[1], misuse.name) == 0) {
      misuse.body();
      std::printf("survived\n");
      return 0;
    }
  }
  return 3;
}
