// How long reclaim goes on without any result before it says that nothing more can be evicted. Measured in time during
// which it was seen to try: when the process was stopped, or the machine gave its processors to others, the clock has
// moved but nothing was tried. Refusing memory for that would be wrong. One thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace polder {

class Patience {
 public:
  // A round counts for the time since the one before, and for no more than kRoundNs.
  static constexpr std::uint64_t kPatienceNs = 200'000'000;
  static constexpr std::uint64_t kRoundNs = 4'000'000;

  // Something came of it, or a new attempt begins.
  void renew(std::uint64_t now_ns) {
    last_ns_ = now_ns;
    spent_ns_ = 0;
  }
  void fruitless_round(std::uint64_t now_ns) {
    spent_ns_ += std::min(now_ns - last_ns_, kRoundNs);
    last_ns_ = now_ns;
  }
  bool exhausted() const { return spent_ns_ > kPatienceNs; }

 private:
  std::uint64_t last_ns_ = 0;
  std::uint64_t spent_ns_ = 0;
};

}  // namespace polder
