// A statically linked program: memory that the C library needs in a forked child before anything could be read back is told
// from memory that the program asks for with the very same call. Three times the limit of the latter, and it survives.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int kKeys = 64;  // more than fit the first level, for which nothing is allocated
pthread_key_t keys[kKeys];

// As the C library allocates 32 thread-specific values.
void* (*volatile do_calloc)(std::size_t, std::size_t) = calloc;

void set_keys() {
  for (int index = 0; index < kKeys; ++index) pthread_setspecific(keys[index], &keys[index]);
}

bool keys_are_right() {
  for (int index = 0; index < kKeys; ++index) {
    if (pthread_getspecific(keys[index]) != &keys[index]) return false;
  }
  return true;
}

pthread_barrier_t barrier;

void* sleep_with_keys(void*) {
  set_keys();
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  return keys_are_right() ? nullptr : keys;
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t megabytes = argc == 2 ? static_cast<std::size_t>(std::atoi(argv[1])) : 1;
  for (pthread_key_t& key : keys) pthread_key_create(&key, nullptr);
  set_keys();
  pthread_barrier_init(&barrier, nullptr, 2);
  pthread_t thread;
  pthread_create(&thread, nullptr, sleep_with_keys, nullptr);
  pthread_barrier_wait(&barrier);

  std::vector<unsigned*> blocks;
  for (std::size_t index = 0; index < megabytes * 2048; ++index) {
    blocks.push_back(static_cast<unsigned*>(do_calloc(32, 16)));
    if (blocks.back() == nullptr) {
      std::printf("no memory after %zu blocks\n", index);
      return 1;
    }
    blocks.back()[100] = static_cast<unsigned>(index);
  }
  const pid_t child = fork();
  if (child == 0) _exit(keys_are_right() ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  pthread_barrier_wait(&barrier);
  void* result = keys;
  pthread_join(thread, &result);
  std::size_t wrong = 0;
  for (std::size_t index = 0; index < blocks.size(); ++index) {
    wrong += blocks[index][100] != index || blocks[index][99] != 0;
    std::free(blocks[index]);
  }
  std::printf("child %d, thread %s, %zu blocks wrong\n", status, result == nullptr ? "right" : "wrong", wrong);
  return status != 0 || result != nullptr || wrong != 0 ? 1 : 0;
}
