// What test objects contain: every 8-byte word is a function of the object's seed and the word's place in it, so that a
// word from another object, another place, another time or a page of zeros is noticed. One seed in sixteen gives an
// object that repeats one word and one in sixteen an object of zeros: pages that a store may keep without their bytes.
// Nothing here allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace polder::programs {

// splitmix64 (S. Vigna): the generator behind every random decision of the test programs.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  // Uniform in [0, bound); bound > 0.
  std::uint64_t below(std::uint64_t bound) {
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * bound) >> 64);
  }
  bool one_in(std::uint64_t bound) { return below(bound) == 0; }

 private:
  __extension__ using Wide = unsigned __int128;

  std::uint64_t state_;
};

class Pattern {
 public:
  static constexpr std::size_t kWord = sizeof(std::uint64_t);

  constexpr explicit Pattern(std::uint64_t seed) : seed_(seed) {
    switch (seed & 15) {
      case 0:
        constant_ = true;
        break;
      case 1:
        constant_ = true;
        word_ = (seed | 1) * kFactor;
        break;
      default:
        break;
    }
  }

  constexpr std::uint64_t word(std::size_t index) const {
    if (constant_) return word_;
    const std::uint64_t mixed = (seed_ + index * 0x9E3779B97F4A7C15U) * kFactor;
    return mixed ^ (mixed >> 32);
  }

  // Writes bytes [from, size) of an object of `size` bytes.
  void fill(void* object, std::size_t from, std::size_t size) const {
    auto* bytes = static_cast<unsigned char*>(object);
    std::size_t at = from;
    while (at < size && at % kWord != 0) bytes[at] = byte(at), ++at;
    for (; at + kWord <= size; at += kWord) {
      const std::uint64_t value = word(at / kWord);
      std::memcpy(bytes + at, &value, kWord);
    }
    for (; at < size; ++at) bytes[at] = byte(at);
  }

  static constexpr std::size_t kNone = ~std::size_t{0};

  // First offset in [from, to) whose byte is wrong, kNone when all are right.
  std::size_t first_difference(const void* object, std::size_t from, std::size_t to) const {
    const auto* bytes = static_cast<const unsigned char*>(object);
    std::size_t at = from;
    for (; at < to && at % kWord != 0; ++at) {
      if (bytes[at] != byte(at)) return at;
    }
    // 64 bytes at a time; the slow look for the exact place only where they differ.
    constexpr std::size_t kStep = 8;
    for (; at + kStep * kWord <= to; at += kStep * kWord) {
      std::uint64_t difference = 0;
      for (std::size_t i = 0; i < kStep; ++i) difference |= load(bytes + at + i * kWord) ^ word(at / kWord + i);
      if (difference != 0) break;
    }
    for (; at < to; ++at) {
      if (bytes[at] != byte(at)) return at;
    }
    return kNone;
  }

  unsigned char byte(std::size_t offset) const {
    return static_cast<unsigned char>(word(offset / kWord) >> (8 * (offset % kWord)));
  }

 private:
  static constexpr std::uint64_t kFactor = 0xD6E8FEB86659FD93U;

  static std::uint64_t load(const unsigned char* bytes) {
    std::uint64_t value;
    std::memcpy(&value, bytes, kWord);
    return value;
  }

  std::uint64_t seed_;
  std::uint64_t word_ = 0;
  bool constant_ = false;
};

}  // namespace polder::programs
