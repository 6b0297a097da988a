// What objects contain: random bytes that follow from the object's number and its version. The kinds of pattern that
// compress are left out: they are not for a race with the kernel.
#pragma once

#include "pressure/record.h"
#include "pressure/workload.h"

namespace polder::bench {

inline Pattern contents(std::uint64_t object, std::uint64_t version) {
  return Pattern(((object * 256 + (version & 255)) << 4) | 7);
}

inline void write_contents(void* at, std::size_t from, std::size_t size, std::uint64_t object, std::uint64_t version) {
  PageRecord::touch(at, size);
  contents(object, version).fill(at, from, size);
}

// Ends the program when a byte in [from, size) is wrong.
inline void check_contents(const void* at, std::size_t from, std::size_t size, std::uint64_t object,
                           std::uint64_t version) {
  PageRecord::touch(at, size);
  const std::size_t wrong = contents(object, version).first_difference(at, from, size);
  if (wrong != Pattern::kNone) [[unlikely]]
    fail_at("an object is wrong", object, wrong);
}

}  // namespace polder::bench
