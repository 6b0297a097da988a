// The public interface as a program uses it that runs with and without the library: weak references.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#pragma weak polder_version
#pragma weak polder_set_memory_limit
#pragma weak polder_get_memory_limit
#pragma weak polder_get_statistics
#include "polder/polder.h"

int main() {
  if (polder_version == nullptr) {
    std::printf("no library\n");
    return 0;
  }
  int failures = 0;
  const auto expect = [&failures](bool condition, const char* what) {
    if (condition) return;
    std::printf("failed: %s\n", what);
    ++failures;
  };
  expect(std::strcmp(polder_version(), POLDER_VERSION) == 0, "header and library are of one version");

  errno = 4711;
  const size_t limit = polder_get_memory_limit();
  expect(polder_set_memory_limit(1) == EINVAL, "1 byte is refused");
  expect(polder_set_memory_limit((size_t{8} << 20) - 1) == EINVAL, "just below the minimum is refused");
  expect(polder_get_memory_limit() == limit, "a refused limit changes nothing");
  expect(errno == 4711, "errno is untouched");

  struct polder_statistics statistics;
  std::memset(&statistics, 0, sizeof statistics);
  expect(polder_get_statistics(&statistics) == EINVAL, "a structure without a size is refused");
  statistics.size = sizeof statistics;
  expect(polder_get_statistics(&statistics) == 0, "statistics");
  expect(statistics.size == sizeof statistics, "statistics: size");
  expect(statistics.limit_bytes == limit, "statistics: limit");
  expect(statistics.charged_bytes <= statistics.peak_charged_bytes, "statistics: peak");

  void* const block = std::malloc(4 << 20);
  std::memset(block, 1, 4 << 20);
  struct polder_statistics later;
  later.size = sizeof later;
  expect(polder_get_statistics(&later) == 0, "statistics again");
  expect(later.peak_charged_bytes >= statistics.peak_charged_bytes, "the peak only grows");
  expect(later.charged_bytes >= 4 << 20, "what is resident is charged");
  std::free(block);
  std::printf("limit %zu\n", limit);
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
