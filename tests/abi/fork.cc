// fork in a program with threads: children find every byte, allocate, free what the parent allocated, start threads and
// fork again; open streams and thread-specific values survive.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

std::atomic<bool> stop{false};
pthread_key_t high_key;

std::vector<unsigned char*> make_blocks(unsigned count, std::size_t size) {
  std::vector<unsigned char*> blocks;
  for (unsigned index = 0; index < count; ++index) {
    blocks.push_back(static_cast<unsigned char*>(std::malloc(size + index)));
    std::memset(blocks.back(), static_cast<int>(index * 31 + 7) & 0xff, size + index);
  }
  return blocks;
}

bool right(const std::vector<unsigned char*>& blocks, std::size_t size) {
  for (unsigned index = 0; index < blocks.size(); ++index) {
    const unsigned char* const block = blocks[index];
    if (block[0] != ((index * 31 + 7) & 0xff) || std::memcmp(block, block + 1, size + index - 1) != 0) return false;
  }
  return true;
}

void noise(unsigned seed) {
  while (!stop) {
    auto blocks = make_blocks(50, 100 + seed * 1000);
    if (!right(blocks, 100 + seed * 1000)) std::abort();
    for (unsigned char* block : blocks) std::free(block);
  }
}

int exit_status_of(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int child_work(std::vector<unsigned char*>& blocks, std::size_t size, FILE* stream, int depth) {
  if (!right(blocks, size)) return 2;
  auto own = make_blocks(100, 5000);
  for (unsigned char* block : own) std::free(block);
  std::thread([] {
    auto threads_own = make_blocks(100, 300);
    for (unsigned char* block : threads_own) std::free(block);
  }).join();
  if (std::strcmp(static_cast<char*>(pthread_getspecific(high_key)), "value") != 0) return 3;
  if (std::fprintf(stream, "child %d\n", depth) < 0 || std::fflush(stream) != 0) return 4;
  if (depth > 0) {
    const pid_t grandchild = fork();
    if (grandchild == 0) _exit(child_work(blocks, size, stream, depth - 1));
    if (const int status = exit_status_of(grandchild); status != 0) return status;
  }
  if (!right(blocks, size)) return 5;
  for (unsigned char* block : blocks) std::free(block);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t megabytes = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 16;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 20;
  pthread_key_t key;
  for (int index = 0; index < 100; ++index) pthread_key_create(index == 80 ? &high_key : &key, nullptr);
  pthread_setspecific(high_key, strdup("value"));
  FILE* const stream = std::tmpfile();
  constexpr std::size_t kSize = 10000;
  auto blocks = make_blocks(static_cast<unsigned>(megabytes * 100), kSize);
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; ++seed) threads.emplace_back(noise, seed);
  int failures = 0;
  for (int round = 0; round < rounds; ++round) {
    const pid_t child = fork();
    if (child == 0) _exit(child_work(blocks, kSize, stream, 2));
    if (const int status = exit_status_of(child); status != 0) {
      std::printf("round %d: child ended with %d\n", round, status);
      ++failures;
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  if (!right(blocks, kSize)) {
    std::printf("the parent's memory changed\n");
    ++failures;
  }
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
