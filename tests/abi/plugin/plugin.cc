// C++ in a program that is not: loaded privately, so that its C++ runtime is invisible to a preloaded library.
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

extern "C" __attribute__((visibility("default"))) int use_plugin() {
  std::vector<std::string> strings;
  for (std::size_t index = 0; index < 1000; ++index) strings.push_back(std::string(index, 'p'));
  volatile std::size_t too_much = PTRDIFF_MAX;
  try {
    ::operator delete(::operator new(too_much));
  } catch (const std::bad_alloc&) {
    return static_cast<int>(strings.size());
  }
  return -1;
}
