// What the store's tests share: a directory that goes away, pages with recognisable contents, and writing them.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>

#include "base/units.h"
#include "store/store.h"
#include "vm/budget.h"

namespace polder::test {

class ScratchDirectory {
 public:
  ScratchDirectory() {
    const char* base = std::getenv("TMPDIR");
    std::string name = std::string(base != nullptr ? base : "/tmp") + "/polder-store-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~ScratchDirectory() {
    if (getpid() != owner_) return;
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  const char* path() const { return path_.c_str(); }

 private:
  const pid_t owner_ = getpid();
  std::string path_;
};

struct alignas(kPageSize) TestPage {
  unsigned char bytes[kPageSize];

  void fill(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (std::size_t i = 0; i < kPageSize; i += 8) {
      const std::uint64_t word = random();
      std::memcpy(bytes + i, &word, 8);
    }
  }
};

// Stores a page as the reclaimer would, one at a time; none() when no slot is left.
inline Location store_page(Store& store, std::uint64_t seed) {
  TestPage page;
  page.fill(seed);
  const SlotRun run = store.allocate_slots(1);
  if (run.count == 0) return Location::none();
  const ssize_t written = pwrite(store.fd(run[0]), page.bytes, kPageSize, static_cast<off_t>(store.offset(run[0])));
  if (written != static_cast<ssize_t>(kPageSize)) {
    store.abandon(run[0], Errno(errno));
    return Location::none();
  }
  store.commit(run[0], hash_page(page.bytes));
  return run[0];
}

// Whether the stored page is the one that `seed` made, by its bytes and by its hash.
inline bool holds_page(const Store& store, Location location, std::uint64_t seed) {
  TestPage expected;
  TestPage page;
  expected.fill(seed);
  const auto offset = static_cast<off_t>(store.offset(location));
  return pread(store.fd(location), page.bytes, kPageSize, offset) == static_cast<ssize_t>(kPageSize) &&
         std::memcmp(page.bytes, expected.bytes, kPageSize) == 0 && store.matches(location, page.bytes);
}

}  // namespace polder::test
