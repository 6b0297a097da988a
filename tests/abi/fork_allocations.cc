// What glibc itself writes in a forked child before any handler runs: the streams that are open, and the second-level blocks
// of thread-specific values of every thread that ever had some. With enough other memory in use all of it has been
// evicted when the fork happens.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int kKeys = 200;
constexpr int kStreams = 100;
constexpr int kThreads = 8;
constexpr std::size_t kFiller = std::size_t{100} << 20;
constexpr std::size_t kPage = 4096;

pthread_key_t keys[kKeys];
std::atomic<int> ready{0};
std::atomic<bool> stop{false};

void* filled() {
  auto* const memory = static_cast<unsigned char*>(std::malloc(kFiller));
  for (std::size_t offset = 0; offset < kFiller; offset += kPage) {
    std::memset(memory + offset, static_cast<int>(offset / kPage) & 0xff, kPage / 2);
  }
  return memory;
}

bool right(const void* memory) {
  for (std::size_t offset = 0; offset < kFiller; offset += kPage) {
    if (static_cast<const unsigned char*>(memory)[offset + 7] != ((offset / kPage) & 0xff)) return false;
  }
  return true;
}

void hold_values() {
  for (pthread_key_t key : keys) pthread_setspecific(key, &keys);
  ++ready;
  while (!stop) usleep(1000);
  for (pthread_key_t key : keys) {
    if (pthread_getspecific(key) != &keys) std::abort();
  }
}

int child_work(const std::vector<std::FILE*>& streams, const void* memory) {
  for (std::FILE* stream : streams) {
    if (std::fputs("child", stream) < 0 || std::fflush(stream) != 0) return 2;
  }
  for (pthread_key_t key : keys) {
    if (pthread_getspecific(key) != &keys) return 3;
  }
  return right(memory) ? 0 : 4;
}

}  // namespace

int main() {
  for (pthread_key_t& key : keys) pthread_key_create(&key, nullptr);
  for (pthread_key_t key : keys) pthread_setspecific(key, &keys);
  std::vector<std::thread> threads;
  for (int index = 0; index < kThreads; ++index) threads.emplace_back(hold_values);
  while (ready < kThreads) usleep(1000);
  std::vector<std::FILE*> streams;
  for (int index = 0; index < kStreams; ++index) {
    streams.push_back(std::fopen("/dev/null", "w"));
    std::fputs("parent", streams.back());
  }
  int failures = 0;
  for (int round = 0; round < 3; ++round) {
    void* const memory = filled();
    const pid_t child = fork();
    if (child == 0) _exit(child_work(streams, memory));
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) {
      std::printf("round %d: child ended with status %#x\n", round, static_cast<unsigned>(status));
      ++failures;
    }
    if (!right(memory)) {
      std::printf("round %d: the parent's memory changed\n", round);
      ++failures;
    }
    std::free(memory);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  for (std::FILE* stream : streams) std::fclose(stream);
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
