// What mallinfo2, malloc_info, malloc_stats and malloc_trim say, checked against what the program has allocated; then
// malloc_info again and again while threads allocate and free. Its documents go to standard output, each before a line of
// its own, for the test to parse.
#include <malloc.h>
#include <pthread.h>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

bool failed = false;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s\n", what);
  failed = true;
}

std::vector<void*> allocate(std::size_t count, std::size_t size) {
  std::vector<void*> blocks(count);
  for (void*& block : blocks) {
    block = std::malloc(size);
    std::memset(block, 1, size);
  }
  return blocks;
}

void release(std::vector<void*>& blocks) {
  for (void* block : blocks) std::free(block);
  blocks = {};
}

void check_identities(const struct mallinfo2& info) {
  expect(info.arena == info.uordblks + info.fordblks, "arena = uordblks + fordblks");
  expect(info.smblks == 0 && info.usmblks == 0 && info.fsmblks == 0, "no fast bins");
}

void check_figures() {
  const struct mallinfo2 before = mallinfo2();
  check_identities(before);
  auto small = allocate(500, 3000);
  auto large = allocate(5, std::size_t{1} << 20);
  const struct mallinfo2 during = mallinfo2();
  check_identities(during);
  expect(during.uordblks >= before.uordblks + 500 * 3000, "small objects are in use");
  expect(during.uordblks <= before.uordblks + 500 * 3000 * 5 / 4 + 500000, "and take little more than they need");
  expect(during.hblks == before.hblks + 5, "large blocks are counted");
  expect(during.hblkhd >= before.hblkhd + (5 << 20), "and measured");
  expect(during.hblkhd <= before.hblkhd + (5 << 20) + 5 * 65536, "at their size");

  release(small);
  release(large);
  malloc_trim(0);
  const struct mallinfo2 after = mallinfo2();
  check_identities(after);
  expect(after.hblks == before.hblks && after.hblkhd == before.hblkhd, "large blocks are gone");
  expect(after.uordblks <= before.uordblks + 500000, "small objects are free");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const struct mallinfo narrow = mallinfo();
#pragma GCC diagnostic pop
  expect(static_cast<std::size_t>(narrow.arena) == after.arena &&
             static_cast<std::size_t>(narrow.uordblks) == after.uordblks &&
             static_cast<std::size_t>(narrow.fordblks) == after.fordblks &&
             static_cast<std::size_t>(narrow.hblkhd) == after.hblkhd,
         "mallinfo says the same");
}

void check_trim() {
  auto blocks = allocate(30000, 1000);
  release(blocks);
  errno = 4711;
  expect(malloc_trim(0) == 1, "there is something to trim");
  expect(malloc_trim(0) == 0, "and once only");
  expect(errno == 4711, "errno");
}

void write_document() {
  if (malloc_info(0, stdout) != 0) failed = true;
  std::printf("--\n");
}

void write_documents_meanwhile() {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([seed, &stop] {
      std::vector<void*> blocks(500);
      unsigned random = seed;
      while (!stop) {
        for (void*& block : blocks) {
          std::free(block);
          random = random * 1103515245U + 12345U;
          block = std::malloc((random >> 8) % (random >> 26 == 0 ? 300000 : 5000));
        }
      }
      release(blocks);
    });
  }
  for (int round = 0; round < 50; ++round) {
    const struct mallinfo2 info = mallinfo2();
    check_identities(info);
    write_document();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main() {
  check_figures();
  check_trim();
  // For the test to find in the last document: as many objects of one class, as many large runs.
  auto small = allocate(1234, 4000);
  auto large = allocate(17, 700000);
  write_documents_meanwhile();
  write_document();
  malloc_stats();
  release(small);
  release(large);
  std::printf("%s\n", failed ? "failed" : "ok");
  return failed ? 1 : 0;
}
