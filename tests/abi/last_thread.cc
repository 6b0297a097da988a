// The process ends with the last of its own threads, although the main thread is long gone: service threads do not count.
#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

void use_memory() {
  constexpr std::size_t kSize = std::size_t{100} << 20;
  auto* const memory = static_cast<volatile unsigned char*>(std::malloc(kSize));
  for (std::size_t offset = 0; offset < kSize; offset += 4096) memory[offset] = 1;
  std::free(const_cast<unsigned char*>(memory));
}

}  // namespace

int main() {
  std::atexit([] { std::printf("exit handlers ran\n"); });
  use_memory();
  std::thread([] {
    use_memory();
    std::thread(use_memory).detach();
  }).detach();
  pthread_exit(nullptr);
}
