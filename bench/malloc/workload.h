// The workloads of malloc_suite. Each runs on whatever malloc the program has, with threads of its own, to the end of
// its operations; the table in suite.cc names them, says where they come from and holds their parameters.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace polder::bench {

struct Parameters {
  unsigned threads = 1;
  std::uint64_t operations = 0;  // of all threads together, rounded down to what the workload repeats
  std::size_t live = 0;          // objects alive at once, of all threads together
  std::size_t smallest = 0;      // bytes of an object; a power of two
  std::size_t largest = 0;
  std::uint64_t seed = 1;
  const char* trace = nullptr;  // file to replay; nullptr: a synthetic one
};

struct Result {
  std::uint64_t operations = 0;
  double seconds = 0;  // of the operations alone, without filling and emptying
};

class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Runs body(0) to body(count - 1) on a thread each, and waits for all.
template <typename Body>
void on_threads(unsigned count, const Body& body) {
  std::vector<std::thread> threads;
  threads.reserve(count);
  for (unsigned i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (std::thread& thread : threads) thread.join();
}

// A seed for one of several generators of a run.
inline std::uint64_t seed_of(const Parameters& parameters, std::uint64_t index) {
  return parameters.seed * 0x1'0000'0001U + index * 0x9E37U;
}

Result larson(const Parameters& parameters);
Result threadtest(const Parameters& parameters);
Result xmalloc(const Parameters& parameters);
Result cache_scratch(const Parameters& parameters);
Result cache_thrash(const Parameters& parameters);
Result sh6(const Parameters& parameters);
Result sh8(const Parameters& parameters);
Result mstress(const Parameters& parameters);
Result replace(const Parameters& parameters);
Result realloc_array(const Parameters& parameters);
Result realloc_vectors(const Parameters& parameters);
Result large_blocks(const Parameters& parameters);
Result very_large_blocks(const Parameters& parameters);
Result thread_start(const Parameters& parameters);
Result aligned(const Parameters& parameters);
Result zeroed(const Parameters& parameters);
Result batch(const Parameters& parameters);
Result exchange(const Parameters& parameters);
Result trace(const Parameters& parameters);

}  // namespace polder::bench
