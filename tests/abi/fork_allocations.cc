// What glibc itself writes in a forked child before any handler runs: the streams that are open, the second-level blocks
// of thread-specific values of every thread that ever had some, the state of the name service switch. So much other
// memory is in use that all of it has been evicted when the fork happens.
#include <pthread.h>
#include <pwd.h>
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
constexpr std::size_t kObjects = 36'000;
constexpr std::size_t kObjectSize = 2000;

pthread_key_t keys[kKeys];
std::atomic<int> ready{0};
std::atomic<bool> stop{false};

// Small objects, 72 MB of them.
class Filler {
 public:
  Filler() {
    for (std::size_t index = 0; index < kObjects; ++index) {
      objects_.push_back(static_cast<unsigned char*>(std::malloc(kObjectSize)));
      std::memset(objects_.back(), static_cast<int>(index) & 0xff, kObjectSize);
    }
  }
  ~Filler() {
    for (unsigned char* object : objects_) std::free(object);
  }
  bool right() const {
    for (std::size_t index = 0; index < kObjects; ++index) {
      if (objects_[index][0] != (index & 0xff) || objects_[index][kObjectSize - 1] != (index & 0xff)) return false;
    }
    return true;
  }

 private:
  std::vector<unsigned char*> objects_;
};

void hold_values() {
  for (pthread_key_t key : keys) pthread_setspecific(key, &keys);
  ++ready;
  while (!stop) usleep(1000);
  for (pthread_key_t key : keys) {
    if (pthread_getspecific(key) != &keys) std::abort();
  }
}

int child_work(const std::vector<std::FILE*>& streams, const Filler& filler) {
  for (std::FILE* stream : streams) {
    if (std::fputs("child", stream) < 0 || std::fflush(stream) != 0) return 2;
  }
  for (pthread_key_t key : keys) {
    if (pthread_getspecific(key) != &keys) return 3;
  }
  if (getpwuid(0) == nullptr) return 4;
  return filler.right() ? 0 : 5;
}

}  // namespace

int main() {
  const Filler before;
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
  int failures = getpwuid(0) != nullptr ? 0 : 1;
  for (int round = 0; round < 3; ++round) {
    const Filler after;
    const pid_t child = fork();
    if (child == 0) _exit(child_work(streams, after));
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) {
      std::printf("round %d: child ended with status %#x\n", round, static_cast<unsigned>(status));
      ++failures;
    }
    if (!after.right()) {
      std::printf("round %d: the parent's memory changed\n", round);
      ++failures;
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  for (std::FILE* stream : streams) std::fclose(stream);
  if (!before.right()) ++failures;
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
