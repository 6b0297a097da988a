// The workloads of `pressure`: each has a data set of a given size and repeats one operation on it. Every byte that an
// operation reads is compared with what was written there. Everything is allocated with malloc, what a workload needs to
// know of its objects too, and counts as data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "programs/pattern.h"

namespace polder::bench {

using programs::Pattern;
using programs::Random;

struct Settings {
  std::uint64_t bytes = std::uint64_t{512} << 20;  // of data
  std::size_t object_size = 512;                   // a multiple of 8, at least 64
  unsigned threads = 1;
  std::uint64_t seed = 1;
};

// A thread's part of the work.
class Worker {
 public:
  virtual ~Worker() = default;

  enum class Progress : unsigned char { more, done };
  // One operation. Done: it was the last, of a workload that is finite.
  virtual Progress operate() = 0;
};

// Made with its data already written, by the thread that makes it. Frees nothing: it ends with the program, since freeing
// what is not resident is no part of what is measured.
class Workload {
 public:
  virtual ~Workload() = default;

  // A finite workload is measured from its first operation to its last; any other for as long as one likes.
  enum class Length : unsigned char { endless, finite };
  virtual Length length() const { return Length::endless; }
  // `index` < threads, each once; workers run at the same time.
  virtual std::unique_ptr<Worker> worker(unsigned index) = 0;
};

std::unique_ptr<Workload> make_uniform(const Settings& settings);
std::unique_ptr<Workload> make_zipf(const Settings& settings);
std::unique_ptr<Workload> make_sequential(const Settings& settings);
std::unique_ptr<Workload> make_phases(const Settings& settings);
std::unique_ptr<Workload> make_churn(const Settings& settings);
std::unique_ptr<Workload> make_chase(const Settings& settings);
std::unique_ptr<Workload> make_graph(const Settings& settings);
std::unique_ptr<Workload> make_quicksort(const Settings& settings);

std::uint64_t now_ns();

// End the program, with status 1.
[[noreturn]] void fail(const char* what);
[[noreturn]] void fail_at(const char* what, std::uint64_t object, std::size_t byte);

// A generator of its own for every thread.
inline Random random_for(const Settings& settings, unsigned index) {
  return Random(settings.seed * 0x1'0000'0001U + (index + 1) * std::uint64_t{0x9E37});
}

// Never null.
void* allocate(std::size_t size);

}  // namespace polder::bench
