// Latencies in buckets an eighth of a power of two wide: percentiles within 13 %.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace polder::bench {

class Histogram {
 public:
  void add(std::uint64_t ns) {
    ++counts_[bucket(ns)];
    ++total_;
    if (ns > max_) max_ = ns;
  }
  void add(const Histogram& other) {
    for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
    total_ += other.total_;
    if (other.max_ > max_) max_ = other.max_;
  }

  // Upper edge of the bucket that holds the quantile.
  double quantile_us(double quantile) const {
    const auto wanted = static_cast<std::uint64_t>(std::ceil(quantile * static_cast<double>(total_)));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      seen += counts_[i];
      if (seen >= wanted && seen > 0) return edge(i) / 1000.0;
    }
    return max_us();
  }
  double max_us() const { return static_cast<double>(max_) / 1000.0; }
  std::uint64_t total() const { return total_; }

 private:
  static constexpr std::size_t kBuckets = 64 * 8;

  static std::size_t bucket(std::uint64_t ns) {
    if (ns < 8) return static_cast<std::size_t>(ns);
    const auto exponent = static_cast<unsigned>(63 - __builtin_clzll(ns));
    return exponent * 8 + ((ns >> (exponent - 3)) & 7);
  }
  static double edge(std::size_t index) {
    if (index < 8) return static_cast<double>(index);
    return std::ldexp(8.0 + static_cast<double>(index % 8) + 1.0, static_cast<int>(index / 8) - 3);
  }

  std::uint64_t counts_[kBuckets] = {};
  std::uint64_t total_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace polder::bench
