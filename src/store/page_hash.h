// The 128-bit hash that every stored page carries and that is checked when it comes back (XXH3-128, unseeded). It
// detects torn, stale and misdirected reads, and tells whether a page still equals its retained slot. Pure functions,
// any thread; not meant to resist an adversary.
#pragma once

#include <cstdint>

namespace polder {

struct PageHash {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  constexpr bool operator==(const PageHash&) const = default;
};

// Hash of the kPageSize bytes at `page`.
PageHash hash_page(const void* page);

}  // namespace polder
