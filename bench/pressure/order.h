// Orders in which objects are visited.
#pragma once

#include <cmath>
#include <cstdint>

#include "pressure/workload.h"

namespace polder::bench {

// Ranks of a Zipf distribution. Source: J. Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (1994).
class Zipf {
 public:
  Zipf(std::uint64_t count, double exponent) : count_(static_cast<double>(count)), exponent_(exponent) {
    for (std::uint64_t i = 1; i <= count; ++i) zeta_ += std::pow(static_cast<double>(i), -exponent);
    const double zeta2 = 1.0 + std::pow(0.5, exponent);
    eta_ = (1.0 - std::pow(2.0 / count_, 1.0 - exponent)) / (1.0 - zeta2 / zeta_);
    alpha_ = 1.0 / (1.0 - exponent);
  }

  std::uint64_t rank(Random& random) const {
    const double u = static_cast<double>(random.next() >> 11) * 0x1p-53;
    const double uz = u * zeta_;
    if (uz < 1.0) return 0;
    if (uz < 1.0 + std::pow(0.5, exponent_)) return 1;
    const double rank = count_ * std::pow(eta_ * u - eta_ + 1.0, alpha_);
    return rank >= count_ ? static_cast<std::uint64_t>(count_) - 1 : static_cast<std::uint64_t>(rank);
  }

 private:
  double count_;
  double exponent_;
  double zeta_ = 0;
  double eta_;
  double alpha_;
};

// A pseudo-random permutation of [0, count) that needs no memory: a Feistel network of four rounds over the next power
// of four, applied until it leads back into the range (J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains",
// CT-RSA 2002).
class Permutation {
 public:
  Permutation(std::uint64_t count, std::uint64_t seed) : count_(count), seed_(seed) {
    while ((std::uint64_t{1} << (2 * half_)) < count) ++half_;
  }

  std::uint64_t operator()(std::uint64_t index) const {
    do index = once(index);
    while (index >= count_);
    return index;
  }

 private:
  std::uint64_t once(std::uint64_t index) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_) - 1;
    std::uint64_t left = index >> half_;
    std::uint64_t right = index & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t mixed = Random(seed_ + (round << 32) + right).next();
      const std::uint64_t next = left ^ (mixed & mask);
      left = right;
      right = next;
    }
    return (left << half_) | right;
  }

  std::uint64_t count_;
  std::uint64_t seed_;
  unsigned half_ = 1;
};

}  // namespace polder::bench
