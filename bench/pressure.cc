// Reads of small objects from a heap that does not fit: how many a second, and how long one takes. Knows nothing of
// what limits the memory; scripts/bench runs it under the library and under a memory cgroup with the kernel's swap.
//
//   pressure [--bytes SIZE] [--object-size N] [--seconds N] [--warm-up N] [--seed N] [--patterns LIST]
//
// All objects are allocated and written first. Then each pattern (uniform, zipf: exponent 0.99 over objects in
// scrambled order, sequential: the order of allocation) runs for `warm-up` seconds and is measured for `seconds`. Every
// byte of an object is checked at every read; one read in five is followed by a write of the whole object. Everything,
// also the arrays of pointers and versions, is allocated with malloc.
//
// Output: one line per pattern, `pattern objects_per_second p50_us p99_us p999_us max_us reads`, after a line
// `load - seconds`. Status 1 when a byte is wrong.
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>
#include <string_view>

#include "programs/pattern.h"

namespace polder::bench {
namespace {

using programs::Pattern;
using programs::Random;

struct Settings {
  std::uint64_t bytes = std::uint64_t{1} << 30;
  std::uint64_t object_size = 512;
  std::uint64_t seconds = 10;
  std::uint64_t warm_up = 3;
  std::uint64_t seed = 1;
  const char* patterns = "uniform,zipf,sequential";
};

std::uint64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(time.tv_nsec);
}

// Latencies in buckets an eighth of a power of two wide: percentiles within 13 %.
class Histogram {
 public:
  void add(std::uint64_t ns) {
    ++counts_[bucket(ns)];
    ++total_;
    if (ns > max_) max_ = ns;
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

class Workload {
 public:
  explicit Workload(const Settings& settings)
      : settings_(settings),
        count_(settings.bytes / settings.object_size),
        objects_(static_cast<unsigned char**>(std::malloc(count_ * sizeof(unsigned char*)))),
        versions_(static_cast<unsigned char*>(std::calloc(count_, 1))),
        random_(settings.seed) {
    if (objects_ == nullptr || versions_ == nullptr) out_of_memory();
    // Coprime to the count, near the golden ratio of it: neighbours in rank lie far apart.
    scramble_ = static_cast<std::uint64_t>(static_cast<double>(count_) * 0.6180339887) | 1;
    while (greatest_common_divisor(scramble_, count_) != 1) scramble_ += 2;
  }

  void load() {
    const std::uint64_t start = now_ns();
    for (std::uint64_t i = 0; i < count_; ++i) {
      objects_[i] = static_cast<unsigned char*>(std::malloc(settings_.object_size));
      if (objects_[i] == nullptr) out_of_memory();
      pattern(i).fill(objects_[i], 0, settings_.object_size);
    }
    std::printf("load - %.3f\n", static_cast<double>(now_ns() - start) / 1e9);
    std::fflush(stdout);
  }

  void run(std::string_view name) {
    const Zipf* zipf = name == "zipf" ? new Zipf(count_, 0.99) : nullptr;
    std::uint64_t position = 0;
    const auto next = [&]() -> std::uint64_t {
      if (zipf != nullptr) return static_cast<std::uint64_t>((zipf->rank(random_) * scramble_) % count_);
      if (name == "uniform") return random_.below(count_);
      return position = position + 1 < count_ ? position + 1 : 0;
    };
    auto* histogram = new Histogram;
    const std::uint64_t begin = now_ns() + settings_.warm_up * 1'000'000'000;
    const std::uint64_t end = begin + settings_.seconds * 1'000'000'000;
    std::uint64_t before = now_ns();
    std::uint64_t first = 0;
    while (before < end) {
      visit(next());
      const std::uint64_t after = now_ns();
      if (before >= begin) {
        if (first == 0) first = before;
        histogram->add(after - before);
      }
      before = after;
    }
    const double elapsed = static_cast<double>(before - first) / 1e9;
    std::printf("%.*s %.0f %.1f %.1f %.1f %.1f %llu\n", static_cast<int>(name.size()), name.data(),
                static_cast<double>(histogram->total()) / elapsed, histogram->quantile_us(0.5),
                histogram->quantile_us(0.99), histogram->quantile_us(0.999), histogram->max_us(),
                static_cast<unsigned long long>(histogram->total()));
    std::fflush(stdout);
    delete histogram;
    delete zipf;
  }

 private:
  // Random bytes whatever the object: the kinds of pattern that compress are not for a race with the kernel.
  Pattern pattern(std::uint64_t index) const { return Pattern(((index * 256 + versions_[index]) << 4) | 7); }

  void visit(std::uint64_t index) {
    const std::size_t wrong = pattern(index).first_difference(objects_[index], 0, settings_.object_size);
    if (wrong != Pattern::kNone) {
      std::fprintf(stderr, "pressure: object %llu is wrong at byte %zu\n", static_cast<unsigned long long>(index),
                   wrong);
      std::exit(1);
    }
    if (random_.below(5) == 0) {
      ++versions_[index];
      pattern(index).fill(objects_[index], 0, settings_.object_size);
    }
  }

  static std::uint64_t greatest_common_divisor(std::uint64_t a, std::uint64_t b) {
    return b == 0 ? a : greatest_common_divisor(b, a % b);
  }
  [[noreturn]] static void out_of_memory() {
    std::fprintf(stderr, "pressure: out of memory\n");
    std::exit(1);
  }

  Settings settings_;
  std::uint64_t count_;
  unsigned char** objects_;
  unsigned char* versions_;
  Random random_;
  std::uint64_t scramble_ = 1;
};

std::uint64_t parse_size(const char* text) {
  char* end = nullptr;
  std::uint64_t value = std::strtoull(text, &end, 10);
  if (*end == 'G') value <<= 30, ++end;
  if (*end == 'M') value <<= 20, ++end;
  if (*end == 'K') value <<= 10, ++end;
  if (end == text || *end != '\0') {
    std::fprintf(stderr, "pressure: not a number: %s\n", text);
    std::exit(2);
  }
  return value;
}

int run(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    if (i + 1 == argc) {
      std::fprintf(stderr, "pressure: %s wants a value\n", argv[i]);
      return 2;
    }
    const char* value = argv[i + 1];
    if (option == "--bytes") {
      settings.bytes = parse_size(value);
    } else if (option == "--object-size") {
      settings.object_size = parse_size(value);
    } else if (option == "--seconds") {
      settings.seconds = parse_size(value);
    } else if (option == "--warm-up") {
      settings.warm_up = parse_size(value);
    } else if (option == "--seed") {
      settings.seed = parse_size(value);
    } else if (option == "--patterns") {
      settings.patterns = value;
    } else {
      std::fprintf(stderr, "pressure: unknown option %s\n", argv[i]);
      return 2;
    }
  }
  if (settings.object_size == 0 || settings.bytes < settings.object_size) return 2;
  Workload workload(settings);
  workload.load();
  std::string_view rest = settings.patterns;
  while (!rest.empty()) {
    const std::string_view name = rest.substr(0, rest.find(','));
    if (name != "uniform" && name != "zipf" && name != "sequential") {
      std::fprintf(stderr, "pressure: unknown pattern %.*s\n", static_cast<int>(name.size()), name.data());
      return 2;
    }
    workload.run(name);
    rest.remove_prefix(name.size() == rest.size() ? rest.size() : name.size() + 1);
  }
  return 0;
}

}  // namespace
}  // namespace polder::bench

int main(int argc, char** argv) { return polder::bench::run(argc, argv); }
