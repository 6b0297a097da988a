// Holds 64 MiB, and allocates and frees other memory until standard input ends; then compares every byte.
#include <poll.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::size_t kBlock = 64 << 10;
constexpr std::size_t kBlocks = 1024;
constexpr std::size_t kObjects = 300;
constexpr std::size_t kObject = 5000;

unsigned char* blocks[kBlocks];
void* objects[kObjects];

int pattern(std::size_t block) { return static_cast<int>(block % 251) + 1; }

bool input_ended() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  char byte;
  return poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) <= 0;
}

bool right(std::size_t block) {
  for (std::size_t i = 0; i < kBlock; ++i) {
    if (blocks[block][i] != pattern(block)) return false;
  }
  return true;
}

}  // namespace

int main() {
  for (std::size_t i = 0; i < kBlocks; ++i) {
    blocks[i] = static_cast<unsigned char*>(std::malloc(kBlock));
    if (blocks[i] == nullptr) return 1;
    std::memset(blocks[i], pattern(i), kBlock);
  }
  std::puts("ready");
  std::fflush(stdout);
  while (!input_ended()) {
    for (void*& object : objects) object = std::malloc(kObject);
    for (void* const object : objects) std::free(object);
  }
  for (std::size_t i = 0; i < kBlocks; ++i) {
    if (!right(i)) {
      std::printf("block %zu is wrong\n", i);
      return 1;
    }
    std::free(blocks[i]);
  }
  std::puts("right");
  return 0;
}
