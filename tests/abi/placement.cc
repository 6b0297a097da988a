// Prints where an object, a span and a large run are.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

int main() {
  for (const std::size_t size : {std::size_t{100}, std::size_t{100'000}, std::size_t{10'000'000}}) {
    void* const block = std::malloc(size);
    if (block == nullptr) return 1;
    std::printf("%p\n", block);
  }
}
