// malloc(64), one byte written, free: COUNT times. What scripts/bench instructions counts the instructions of.
#include <cstdlib>

int main(int argument_count, char** arguments) {
  const long count = argument_count == 2 ? std::atol(arguments[1]) : 0;
  for (long i = 0; i < count; ++i) {
    void* const object = std::malloc(64);
    if (object == nullptr) return 1;
    *static_cast<volatile char*>(object) = 1;
    std::free(object);
  }
  return count > 0 ? 0 : 2;
}
