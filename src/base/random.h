// A fast generator of random numbers for choices that should be hard to foresee, not for secrets. Whoever owns one seeds
// it with bytes from the kernel and guards it.
//
// Source: D. Blackman, S. Vigna, "Scrambled linear pseudorandom number generators" (ACM TOMS 2021): xoroshiro128++.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace polder {

class Random {
 public:
  using Seed = std::array<std::uint64_t, 2>;

  void seed(const Seed& seed) { state_ = {seed[0] | 1, seed[1]}; }

  std::uint64_t next() {
    const std::uint64_t first = state_[0];
    const std::uint64_t second = state_[1] ^ first;
    const std::uint64_t result = std::rotl(first + state_[1], 17) + first;
    state_ = {std::rotl(first, 49) ^ second ^ (second << 21), std::rotl(second, 28)};
    return result;
  }

  // One of 0 … bound - 1; bound > 0.
  std::uint32_t below(std::uint32_t bound) {
    return static_cast<std::uint32_t>(((next() >> 32) * std::uint64_t{bound}) >> 32);
  }

 private:
  Seed state_ = {1, 0};  // never all zero
};

}  // namespace polder
