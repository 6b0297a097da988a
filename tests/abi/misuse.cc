// One misuse of the heap per name; the test checks the report and the signal.
#include <malloc.h>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

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
void double_free_large() {
  void* const block = std::malloc(1 << 20);
  do_free(block);
  do_free(block);
}
void free_inside_small() { do_free(static_cast<char*>(std::malloc(1000)) + 16); }
void free_inside_large() { do_free(static_cast<char*>(std::malloc(1 << 20)) + 4096); }
void free_unaligned() { do_free(static_cast<char*>(std::malloc(1000)) + 1); }
void realloc_inside() { do_realloc(static_cast<char*>(std::malloc(1000)) + 16, 5000); }
void realloc_freed() {
  void* const block = std::malloc(1 << 20);
  do_free(block);
  do_realloc(block, 100);
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
    {"double_free_large", double_free_large},
    {"free_inside_small", free_inside_small},
    {"free_inside_large", free_inside_large},
    {"free_unaligned", free_unaligned},
    {"realloc_inside", realloc_inside},
    {"realloc_freed", realloc_freed},
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
