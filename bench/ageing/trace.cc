#include "ageing/trace.h"

#include <algorithm>
#include <cstdio>

#include "base/units.h"

namespace polder::bench {

std::optional<Trace> read_trace(const char* path) {
  std::FILE* const file = std::fopen(path, "re");
  if (file == nullptr) return std::nullopt;
  Trace trace;
  std::vector<std::uint32_t> part(std::size_t{1} << 16);
  for (std::size_t count; (count = std::fread(part.data(), sizeof part[0], part.size(), file)) != 0;) {
    trace.accesses.insert(trace.accesses.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(count));
  }
  const bool whole = std::ferror(file) == 0 && std::ftell(file) % static_cast<long>(sizeof part[0]) == 0;
  std::fclose(file);
  if (!whole) return std::nullopt;

  const auto sort_unique = [](std::vector<std::uint32_t>& numbers) {
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  };
  std::vector<std::uint32_t> numbers = trace.accesses;
  sort_unique(numbers);
  trace.distinct_pages = static_cast<std::uint32_t>(numbers.size());
  for (std::uint32_t& number : numbers) number /= kPagesPerFolio;
  sort_unique(numbers);
  trace.folios = static_cast<std::uint32_t>(numbers.size());
  for (std::uint32_t& page : trace.accesses) {
    const auto folio = std::lower_bound(numbers.begin(), numbers.end(), page / kPagesPerFolio) - numbers.begin();
    page = static_cast<std::uint32_t>(folio) * kPagesPerFolio + page % kPagesPerFolio;
  }
  return trace;
}

}  // namespace polder::bench
