// polder_set_memory_limit while the program runs: a limit where there was none, a lower one, a higher one, none again.
// What is resident is asked of the kernel.
#include <fcntl.h>
#include <unistd.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#pragma weak polder_set_memory_limit
#pragma weak polder_get_memory_limit
#include "polder/polder.h"

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMebibyte = std::size_t{1} << 20;
constexpr std::size_t kSize = 160 * kMebibyte;

// Pages of the block that the kernel has in memory. Pages in staging are elsewhere, and few.
std::size_t resident_bytes(const unsigned char* block) {
  const int pagemap = open("/proc/self/pagemap", O_RDONLY);
  static std::uint64_t entries[kSize / kPage + 1];
  const auto first = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(block) / kPage * sizeof(std::uint64_t));
  const ssize_t length = pread(pagemap, entries, sizeof entries, first);
  close(pagemap);
  std::size_t resident = 0;
  for (std::size_t index = 0; index < static_cast<std::size_t>(length) / sizeof(std::uint64_t); ++index) {
    if ((entries[index] >> 63) != 0) resident += kPage;
  }
  return resident;
}

bool right(const unsigned char* block) {
  for (std::size_t offset = 0; offset < kSize; offset += kPage) {
    if (block[offset + offset / kPage % kPage] != (offset / kPage * 7 + 1) % 251) return false;
  }
  return true;
}

int failures = 0;

void expect(bool condition, const char* what, std::size_t value) {
  if (condition) return;
  std::printf("failed: %s (%zu)\n", what, value);
  ++failures;
}

}  // namespace

int main() {
  if (polder_set_memory_limit == nullptr) {
    std::printf("ok\n");
    return 0;
  }
  const int first = polder_set_memory_limit(0);
  expect(first == 0, "no limit", static_cast<std::size_t>(first));
  auto* const block = static_cast<unsigned char*>(std::malloc(kSize));
  for (std::size_t offset = 0; offset < kSize; offset += kPage) {
    block[offset + offset / kPage % kPage] = static_cast<unsigned char>((offset / kPage * 7 + 1) % 251);
  }
  expect(resident_bytes(block) >= kSize, "all of it is resident without a limit", resident_bytes(block));
  for (const std::size_t limit : {64 * kMebibyte, 32 * kMebibyte, 96 * kMebibyte, 16 * kMebibyte}) {
    const int result = polder_set_memory_limit(limit);
    expect(result == 0, "the limit is accepted", static_cast<std::size_t>(result));
    expect(polder_get_memory_limit() == limit, "the limit is in force", polder_get_memory_limit());
    expect(resident_bytes(block) <= limit, "what is resident fits", resident_bytes(block));
    expect(right(block), "contents under the limit", limit);
    expect(resident_bytes(block) <= limit, "what is resident still fits", resident_bytes(block));
  }
  const int last = polder_set_memory_limit(0);
  expect(last == 0, "no limit again", static_cast<std::size_t>(last));
  expect(right(block), "contents without limit", 0);
  expect(right(block), "contents without limit, again", 0);
  std::free(block);
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
