// A bit for every unit of a block that spans are cut from.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace polder {

class SpanBits {
 public:
  static constexpr unsigned kCount = 512;

  bool test(unsigned index) const { return (words_[index / 64] >> (index % 64) & 1) != 0; }
  // How many of them were clear (set).
  unsigned set(unsigned first, unsigned count = 1) {
    return change(first, count, [](std::uint64_t& word, std::uint64_t mask) {
      const std::uint64_t changed = mask & ~word;
      word |= mask;
      return changed;
    });
  }
  unsigned clear(unsigned first, unsigned count = 1) {
    return change(first, count, [](std::uint64_t& word, std::uint64_t mask) {
      const std::uint64_t changed = mask & word;
      word &= ~mask;
      return changed;
    });
  }

  // The first set (clear) bit from `from` on, kCount when there is none.
  unsigned next_set(unsigned from) const { return next(from, 0); }
  unsigned next_clear(unsigned from) const { return next(from, ~std::uint64_t{0}); }

  unsigned population() const {
    unsigned population = 0;
    for (const std::uint64_t word : words_) population += static_cast<unsigned>(std::popcount(word));
    return population;
  }
  bool intersects(const SpanBits& other) const {
    for (unsigned i = 0; i < kWords; ++i) {
      if ((words_[i] & other.words_[i]) != 0) return true;
    }
    return false;
  }
  bool contains(const SpanBits& other) const {
    for (unsigned i = 0; i < kWords; ++i) {
      if ((other.words_[i] & ~words_[i]) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr unsigned kWords = kCount / 64;
  static_assert(kCount % 64 == 0);

  template <typename Change>
  unsigned change(unsigned first, unsigned count, Change apply) {
    unsigned changed = 0;
    while (count != 0) {
      const unsigned start = first % 64;
      const unsigned length = count < 64 - start ? count : 64 - start;
      const std::uint64_t mask = (length == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << length) - 1) << start;
      changed += static_cast<unsigned>(std::popcount(apply(words_[first / 64], mask)));
      first += length;
      count -= length;
    }
    return changed;
  }

  unsigned next(unsigned from, std::uint64_t flip) const {
    if (from >= kCount) return kCount;
    std::uint64_t word = (words_[from / 64] ^ flip) & (~std::uint64_t{0} << (from % 64));
    for (unsigned i = from / 64;;) {
      if (word != 0) return i * 64 + static_cast<unsigned>(std::countr_zero(word));
      if (++i == kWords) return kCount;
      word = words_[i] ^ flip;
    }
  }

  std::array<std::uint64_t, kWords> words_{};
};

}  // namespace polder
