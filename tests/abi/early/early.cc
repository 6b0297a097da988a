// A shared object that the program links: its constructor runs before a preloaded library's. It allocates, starts and
// joins a thread that allocates, and registers fork handlers that allocate.
#include <pthread.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

char* block = nullptr;
int prepared = 0;

void churn() {
  for (std::size_t size = 1; size < 200000; size = size * 2 + 3) {
    void* const memory = std::malloc(size);
    std::memset(memory, 0x11, size);
    std::free(memory);
  }
}

void* run_thread(void*) {
  churn();
  return std::malloc(300);
}

void prepare() {
  ++prepared;
  churn();
}

[[gnu::constructor]] void construct() {
  block = static_cast<char*>(std::malloc(1000));
  std::strcpy(block, "made by a constructor");
  pthread_t thread;
  void* result = nullptr;
  if (pthread_create(&thread, nullptr, run_thread, nullptr) == 0) pthread_join(thread, &result);
  std::free(result);
  pthread_atfork(prepare, churn, churn);
}

[[gnu::destructor]] void destruct() {
  churn();
  std::printf("destructor: %s\n", block);
  std::free(block);
}

}  // namespace

const char* early_block() { return block; }
int early_prepared() { return prepared; }
