// A Manager and objects of its heap in which every byte can be checked.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>

#include "os/pagemap.h"
#include "unit/manager/manager_fixture.h"

namespace polder {

struct Object {
  unsigned char* bytes = nullptr;
  std::size_t size = 0;
  std::uint64_t seed = 0;
};

inline std::uint64_t word_at(const Object& object, std::size_t index) {
  std::uint64_t value = object.seed + index * 0x9E3779B97F4A7C15;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  return value ^ (value >> 27);
}

// Calls visit(bytes, word, size) for every piece of 8 bytes, the last of what is left, until one returns false.
template <typename Visit>
bool for_each_word(const Object& object, const Visit& visit) {
  for (std::size_t i = 0; i < object.size; i += sizeof(std::uint64_t)) {
    const std::uint64_t word = word_at(object, i / sizeof word);
    if (!visit(object.bytes + i, word, std::min(sizeof word, object.size - i))) return false;
  }
  return true;
}

inline void write(const Object& object) {
  for_each_word(object, [](unsigned char* bytes, std::uint64_t word, std::size_t size) {
    std::memcpy(bytes, &word, size);
    return true;
  });
}

inline bool holds(const Object& object) {
  return for_each_word(object, [](const unsigned char* bytes, std::uint64_t word, std::size_t size) {
    return std::memcmp(bytes, &word, size) == 0;
  });
}

class ManagerObjectsFixture : public ManagerFixture {
 protected:
  Object make(std::size_t size, std::uint64_t seed) {
    Object object{static_cast<unsigned char*>(manager_->heap().allocate(cache_, size)), size, seed};
    EXPECT_NE(object.bytes, nullptr);
    write(object);
    return object;
  }

  // What was freed on its way into the store is dropped when it has arrived; the watchdog knows when that never happens.
  void wait_until_nothing_is_stored() {
    while (manager_->statistics().reclaim.stored_pages.load() != 0) std::this_thread::yield();
  }

  // What the kernel says is in memory between the metadata's start and the arena's end.
  std::size_t resident() {
    os::Pagemap pagemap;
    EXPECT_TRUE(pagemap.open().ok());
    std::size_t pages = 0;
    const Arena& arena = manager_->arena();
    for (char* at = arena.metadata(); at < arena.base() + arena.size(); at += 64 * kPageSize) {
      std::uint64_t present = 0;
      if (pagemap.scan_present(at, 64 * kPageSize, &present).ok()) {
        pages += static_cast<std::size_t>(std::popcount(present));
      }
    }
    return pages * kPageSize;
  }
};

}  // namespace polder
