// The pages that a program touched, in order.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace polder::bench {

struct Trace {
  std::vector<std::uint32_t>
      accesses;  // pages; neighbours in a folio are neighbours here, folios are numbered without gaps
  std::uint32_t folios = 0;
  std::uint32_t distinct_pages = 0;
};

// Nothing when the file cannot be read or is no sequence of 32-bit numbers.
std::optional<Trace> read_trace(const char* path);

}  // namespace polder::bench
