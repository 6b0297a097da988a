// Threads that end: everything they allocate in C++ thread_local destructors and in the destructors of pthread keys works
// and is given back, in whatever order those run. Memory in use must not grow with the number of threads that have been.
#include <malloc.h>
#include <pthread.h>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kKeys = 64;  // more than glibc keeps without allocating a second-level block
constexpr int kRounds = 3;

pthread_key_t keys[kKeys];
std::atomic<long> destructor_runs{0};
std::atomic<bool> damaged{false};

void churn(unsigned seed) {
  void* blocks[64];
  for (unsigned index = 0; index < 64; ++index) {
    const std::size_t size = (seed * 37 + index * 91) % 3000 + (index == 0 ? 70000U : 1U);
    blocks[index] = std::malloc(size);
    std::memset(blocks[index], static_cast<int>(index), size);
  }
  for (unsigned index = 0; index < 64; ++index) {
    if (*static_cast<unsigned char*>(blocks[index]) != index) damaged = true;
    std::free(blocks[index]);
  }
}

struct KeyValue {
  int round;
  int key;
};

// Allocates in every one of the rounds that POSIX grants.
void destroy_value(void* memory) {
  auto* value = static_cast<KeyValue*>(memory);
  ++destructor_runs;
  churn(static_cast<unsigned>(value->round + value->key));
  if (++value->round >= kRounds) {
    std::free(value);
    return;
  }
  auto* const next = static_cast<KeyValue*>(std::malloc(sizeof(KeyValue)));
  *next = *value;
  std::free(value);
  pthread_setspecific(keys[next->key], next);
}

struct Local {
  std::vector<std::string> strings;
  ~Local() {
    for (int index = 0; index < 100; ++index) strings.push_back(std::string(100, 'd'));
    churn(5);
  }
};
thread_local std::unique_ptr<Local> local;

void body(int number, std::vector<void*>* handed_over) {
  local = std::make_unique<Local>();
  local->strings.push_back("a string that is too long for the small buffer");
  for (int key = 0; key < kKeys; ++key) {
    auto* const value = static_cast<KeyValue*>(std::malloc(sizeof(KeyValue)));
    *value = {.round = 0, .key = key};
    pthread_setspecific(keys[key], value);
  }
  churn(static_cast<unsigned>(number));
  for (void*& block : *handed_over) block = std::malloc(500);
}

void generation(int number) {
  std::vector<std::vector<void*>> handed_over(8, std::vector<void*>(200));
  std::vector<std::thread> threads;
  for (int index = 0; index < 8; ++index) {
    threads.emplace_back(body, number * 8 + index, &handed_over[static_cast<std::size_t>(index)]);
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& blocks : handed_over) {
    for (void* block : blocks) std::free(block);
  }
}

std::size_t in_use() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

}  // namespace

int main() {
  for (pthread_key_t& key : keys) pthread_key_create(&key, destroy_value);
  constexpr int kGenerations = 40;
  for (int number = 0; number < 10; ++number) generation(number);
  malloc_trim(0);
  const std::size_t early = in_use();
  for (int number = 10; number < kGenerations; ++number) generation(number);
  malloc_trim(0);
  const std::size_t late = in_use();
  const bool complete = destructor_runs == long{kGenerations} * 8 * kKeys * kRounds;
  const bool bounded = late < early + (std::size_t{1} << 20);
  std::printf("destructors %s, contents %s, memory %s\n", complete ? "ran" : "missed", damaged ? "damaged" : "right",
              bounded ? "bounded" : "grows");
  if (!bounded) std::printf("%zu bytes after 10 generations, %zu after %d\n", early, late, kGenerations);
  return complete && bounded && !damaged ? 0 : 1;
}
