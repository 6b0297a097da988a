// How long reclaim goes on without any result before it says that nothing more can be evicted. Measured in time during
// which it was seen to try: processor time, and of what it rested between two rounds a little. When the process was
// stopped, or the machine gave its processors to others, the clock has moved but nothing was tried, and to refuse memory
// for that would be wrong. One thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace polder {

class Patience {
 public:
  // A round counts for its processor time, or for the time since the one before as far as that is no more than kRestNs.
  static constexpr std::uint64_t kPatienceNs = 200'000'000;
  static constexpr std::uint64_t kRestNs = 4'000'000;

  // Of the clock, and of this thread.
  struct Time {
    std::uint64_t now_ns = 0;
    std::uint64_t cpu_ns = 0;
  };

  // Something came of it, or a new attempt begins.
  void renew(Time time) {
    last_ = time;
    spent_ns_ = 0;
  }
  void fruitless_round(Time time) {
    spent_ns_ += std::max(time.cpu_ns - last_.cpu_ns, std::min(time.now_ns - last_.now_ns, kRestNs));
    last_ = time;
  }
  bool exhausted() const { return spent_ns_ > kPatienceNs; }

 private:
  Time last_;
  std::uint64_t spent_ns_ = 0;
};

}  // namespace polder
