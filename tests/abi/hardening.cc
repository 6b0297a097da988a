// Misuses that only a hardened heap notices, one per name, and what else it promises. The test beside it checks how each
// ends. With a library for dlopen as last argument its functions are used in place of malloc and free.
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

constexpr std::size_t kSmall = 100;
constexpr std::size_t kSpan = 100'000;
constexpr std::size_t kLarge = 3'000'000;

void* (*volatile allocate)(std::size_t) = malloc;
void (*volatile release)(void*) = free;
int (*volatile trim)(std::size_t) = malloc_trim;

volatile char* block_of(std::size_t size) {
  auto* const block = static_cast<volatile char*>(allocate(size));
  for (std::size_t index = 0; index < size; ++index) block[index] = 'x';
  return block;
}
void give_back(volatile char* block) { release(const_cast<char*>(block)); }

// Writes on from the end of a block; faults within 64 KiB.
void overflow(std::size_t size) {
  volatile char* const block = block_of(size);
  for (std::size_t index = size; index < size + 65536; ++index) block[index] = 'y';
}
void overflow_small() { overflow(kSmall); }
void overflow_span() { overflow(kSpan); }
void overflow_large() { overflow(kLarge); }
void overflow_grown() {
  auto* const block = static_cast<volatile char*>(allocate(kLarge));
  void* (*volatile resize)(void*, std::size_t) = std::realloc;
  auto* const grown = static_cast<volatile char*>(resize(const_cast<char*>(block), 3 * kLarge));
  grown[3 * kLarge - 1] = 'y';
  grown[3 * kLarge + 4096] = 'y';
}
void overflow_in_child() {
  volatile char* const block = block_of(kSpan);
  const pid_t child = fork();
  if (child == 0) {
    for (std::size_t index = kSpan; index < kSpan + 8192; ++index) block[index] = 'y';
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) raise(WTERMSIG(status));
}

void use_after_free(std::size_t size) {
  volatile char* const block = block_of(size);
  volatile char* const other = block_of(size);
  give_back(block);
  give_back(other);
  block[size / 2] = 'y';
}
void use_span() { use_after_free(kSpan); }
void use_large() { use_after_free(kLarge); }
void write_small() {
  use_after_free(kSmall);
  trim(0);
}
// Found without being looked for, when it leaves.
void write_and_go_on() {
  use_after_free(kSmall);
  for (int i = 0; i < 100'000; ++i) give_back(block_of(kSmall));
}
void write_in_child() {
  volatile char* const block = block_of(kSmall);
  give_back(block);
  const pid_t child = fork();
  if (child == 0) {
    block[3] = 'y';
    trim(0);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  trim(0);  // ours is as it was
  if (WIFSIGNALED(status)) raise(WTERMSIG(status));
}
void double_free() {
  volatile char* const block = block_of(kSmall);
  give_back(block);
  for (int i = 0; i < 100; ++i) give_back(block_of(kSmall));
  give_back(block);
}
void* free_in_thread(void* block) {
  release(block);
  return nullptr;
}
void double_free_in_thread() {
  volatile char* const block = block_of(kSmall);
  pthread_t thread;
  pthread_create(&thread, nullptr, free_in_thread, const_cast<char*>(block));
  pthread_join(thread, nullptr);
  give_back(block);
}

// Freed objects are zeros.
void zeros() {
  for (const std::size_t size : {std::size_t{16}, kSmall, std::size_t{3000}, std::size_t{4096}}) {
    volatile char* const block = block_of(size);
    give_back(block);
    for (std::size_t index = 0; index < size; ++index) {
      if (block[index] != 0) std::printf("%zu bytes: byte %zu is %d\n", size, index, block[index]);
    }
  }
}

const struct {
  const char* name;
  void (*body)();
} kActions[] = {
    {"overflow_small", overflow_small},
    {"overflow_span", overflow_span},
    {"overflow_large", overflow_large},
    {"overflow_grown", overflow_grown},
    {"overflow_in_child", overflow_in_child},
    {"use_span", use_span},
    {"use_large", use_large},
    {"write_small", write_small},
    {"write_and_go_on", write_and_go_on},
    {"write_in_child", write_in_child},
    {"double_free", double_free},
    {"double_free_in_thread", double_free_in_thread},
    {"zeros", zeros},
};

template <typename Function>
void find(void* library, const char* name, Function volatile& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3) {
    void* const library = dlopen(argv[2], RTLD_NOW);
    if (library == nullptr) return 2;
    find(library, "polder_malloc", allocate);
    find(library, "polder_free", release);
    find(library, "polder_malloc_trim", trim);
  }
  for (const auto& action : kActions) {
    if (argc >= 2 && std::strcmp(argv[1], action.name) == 0) {
      action.body();
      std::printf("survived\n");
      return 0;
    }
  }
  return 3;
}
