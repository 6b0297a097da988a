// madvise on heap memory: what the program discards reads as zero afterwards, evicted or not; the rest stays.
#include <sys/mman.h>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::size_t kPage = 4096;
int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

bool all(const unsigned char* bytes, std::size_t size, unsigned char value) {
  for (std::size_t index = 0; index < size; ++index) {
    if (bytes[index] != value) return false;
  }
  return true;
}

void test_block(std::size_t pages) {
  auto* const block = static_cast<unsigned char*>(aligned_alloc(kPage, pages * kPage));
  std::memset(block, 0x77, pages * kPage);
  const std::size_t third = pages / 3 * kPage;
  expect(madvise(block + third, third, MADV_DONTNEED) == 0, "MADV_DONTNEED");
  expect(all(block, third, 0x77), "before the range");
  expect(all(block + third, third, 0), "discarded reads as zero");
  expect(all(block + 2 * third, pages * kPage - 2 * third, 0x77), "behind the range");
  std::memset(block + third, 0x78, third);
  expect(all(block + third, third, 0x78), "discarded can be written");
  expect(madvise(block, kPage, MADV_FREE) == 0, "MADV_FREE");
  std::memset(block, 0x79, kPage);
  expect(all(block, kPage, 0x79), "freed can be written");
  expect(madvise(block, 1, MADV_DONTNEED) == 0 && all(block, kPage, 0), "a length is rounded up to pages");
  std::free(block);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t megabytes = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 4;
  test_block(3);
  test_block(48);
  test_block(3000);
  test_block(megabytes * 256);

  void* const block = aligned_alloc(kPage, 4 * kPage);
  errno = 0;
  expect(madvise(static_cast<char*>(block) + 1, kPage, MADV_DONTNEED) == -1 && errno == EINVAL, "unaligned is EINVAL");
  expect(madvise(block, 0, MADV_DONTNEED) == 0, "nothing is nothing");
  errno = 0;
  expect(madvise(block, kPage, 12345) == -1 && errno == EINVAL, "unknown advice is EINVAL");
  expect(madvise(block, kPage, MADV_WILLNEED) == 0, "other advice passes");
  std::free(block);

  void* const mapping = mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(mapping, 1, 4 * kPage);
  expect(madvise(mapping, 4 * kPage, MADV_DONTNEED) == 0, "outside the heap");
  expect(all(static_cast<unsigned char*>(mapping), 4 * kPage, 0), "outside the heap reads as zero");
  munmap(mapping, 4 * kPage);
  errno = 0;
  expect(madvise(mapping, kPage, MADV_DONTNEED) == -1 && errno == ENOMEM, "unmapped is ENOMEM");
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
