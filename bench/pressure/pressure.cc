// A program whose data does not fit: how many operations a second, and how long one takes. Knows nothing of what limits
// the memory; scripts/bench runs it under the library and under a memory cgroup with the kernel's swap.
//
//   pressure WORKLOAD [--bytes SIZE] [--object-size SIZE] [--threads N] [--seconds N] [--warm-up N] [--seed N]
//                     [--device-statistics FILE]
//   pressure WORKLOAD … --record FILE [--operations N]
//   pressure --list
//
// The data is written first. Then each thread repeats the workload's operation, for `warm-up` seconds and for `seconds`
// that are measured; a finite workload is measured from begin to end. Prints one line of JSON; the CPU seconds are the
// process's, with whatever serves its faults, during the measurement, and so are the bytes that a block device read and
// wrote, when there is a file with its statistics (/sys/dev/block/MAJOR:MINOR/stat).
//
// Recorded, one thread does so many operations, and the pages that it touched, from the first on, are in the file
// (record.h); nothing is measured.
//
// Status 1: a byte was wrong, or there was no memory; 2: usage.
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>
#include <thread>
#include <vector>

#include "pressure/histogram.h"
#include "pressure/record.h"
#include "pressure/workload.h"

namespace polder::bench {

std::uint64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(time.tv_nsec);
}

void fail(const char* what) {
  std::fprintf(stderr, "pressure: %s\n", what);
  std::_Exit(1);
}

void fail_at(const char* what, std::uint64_t object, std::size_t byte) {
  std::fprintf(stderr, "pressure: %s: %" PRIu64 ", byte %zu\n", what, object, byte);
  std::_Exit(1);
}

void* allocate(std::size_t size) {
  void* const memory = std::malloc(size);
  if (memory == nullptr) fail("out of memory");
  return memory;
}

namespace {

constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
constexpr std::uint64_t kSectorBytes = 512;

struct Kind {
  std::string_view name;
  std::unique_ptr<Workload> (*make)(const Settings&);
  std::string_view measures;
};

constexpr Kind kKinds[]{
    {"uniform", make_uniform, "objects at random"},
    {"zipf", make_zipf, "objects at random, few of them most of the time (exponent 0.99)"},
    {"sequential", make_sequential, "objects in the order of their allocation, again and again"},
    {"phases", make_phases, "an eighth of the objects most of the time, another one every two seconds"},
    {"churn", make_churn, "objects that are freed and replaced by others of another size"},
    {"chase", make_chase, "nodes that are linked in random order"},
    {"graph", make_graph, "vertices in the order of a breadth-first search"},
    {"quicksort", make_quicksort, "numbers that are sorted; an operation is a page of them"},
};

struct Options {
  const Kind* kind = nullptr;
  Settings settings;
  std::uint64_t seconds = 5;
  std::uint64_t warm_up = 2;
  const char* device = nullptr;
  const char* record = nullptr;
  std::uint64_t operations = 1'000'000;
};

[[noreturn]] void usage(const char* what, std::string_view word) {
  std::fprintf(
      stderr,
      "pressure: %s: %.*s\nusage: pressure WORKLOAD [--bytes SIZE] [--object-size SIZE] [--threads N] "
      "[--seconds N] [--warm-up N] [--seed N] [--device-statistics FILE] [--record FILE [--operations N]] | --list\n",
      what, static_cast<int>(word.size()), word.data());
  std::exit(2);
}

// What the process, and the device, had used up.
struct Usage {
  double cpu_seconds = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
};

Usage usage_now(const char* device) {
  Usage now;
  rusage own{};
  getrusage(RUSAGE_SELF, &own);
  for (const timeval& time : {own.ru_utime, own.ru_stime}) {
    now.cpu_seconds += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  }
  if (device == nullptr) return now;
  std::FILE* const file = std::fopen(device, "re");
  std::uint64_t read = 0;
  std::uint64_t written = 0;
  if (file == nullptr || std::fscanf(file, "%*u %*u %" SCNu64 " %*u %*u %*u %" SCNu64, &read, &written) != 2) {
    fail("cannot read the statistics of the device");
  }
  std::fclose(file);
  now.read_bytes = read * kSectorBytes;
  now.written_bytes = written * kSectorBytes;
  return now;
}

struct Measured {
  Histogram histogram;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

void operate(Worker& worker, std::uint64_t begin, std::uint64_t end, Measured& measured) {
  std::uint64_t before = now_ns();
  while (before < end) {
    const Worker::Progress progress = worker.operate();
    const std::uint64_t after = now_ns();
    if (before >= begin) {
      if (measured.begin == 0) measured.begin = before;
      measured.histogram.add(after - before);
    }
    before = after;
    if (progress == Worker::Progress::done) break;
  }
  measured.end = before;
}

void sleep_until(std::uint64_t ns) {
  const timespec time{static_cast<std::time_t>(ns / kNsPerSecond), static_cast<long>(ns % kNsPerSecond)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) != 0) {
  }
}

int run(const Options& options) {
  const std::uint64_t start = now_ns();
  Workload& workload = *options.kind->make(options.settings).release();
  const unsigned threads = options.settings.threads;
  std::vector<std::unique_ptr<Worker>> workers;
  for (unsigned i = 0; i < threads; ++i) workers.push_back(workload.worker(i));
  const std::uint64_t loaded = now_ns();

  const bool finite = workload.length() == Workload::Length::finite;
  const std::uint64_t begin = loaded + (finite ? 0 : options.warm_up * kNsPerSecond);
  const std::uint64_t end = finite ? UINT64_MAX : begin + options.seconds * kNsPerSecond;
  std::vector<Measured> measured(threads);
  std::vector<std::thread> running;
  for (unsigned i = 0; i < threads; ++i) {
    running.emplace_back([&, i] { operate(*workers[i], begin, end, measured[i]); });
  }
  sleep_until(begin);
  const Usage before = usage_now(options.device);
  for (std::thread& thread : running) thread.join();
  const Usage after = usage_now(options.device);

  Histogram all;
  double per_second = 0;
  std::uint64_t last = 0;
  for (const Measured& one : measured) {
    all.add(one.histogram);
    last = std::max(last, one.end);
    if (one.end > one.begin) {
      per_second += static_cast<double>(one.histogram.total()) * 1e9 / static_cast<double>(one.end - one.begin);
    }
  }
  if (all.total() == 0) fail("no operation came to its end in the time that is measured");
  // A finite workload is done when its last thread is.
  if (finite) per_second = static_cast<double>(all.total()) * 1e9 / static_cast<double>(last - begin);
  std::printf("{\"workload\": \"%.*s\", \"load_s\": %.3f, \"operations\": %" PRIu64
              ", \"seconds\": %.3f, \"operations_per_s\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, "
              "\"max_us\": %.1f, \"cpu_s\": %.3f, \"read_bytes\": %" PRIu64 ", \"written_bytes\": %" PRIu64 "}\n",
              static_cast<int>(options.kind->name.size()), options.kind->name.data(),
              static_cast<double>(loaded - start) / 1e9, all.total(), static_cast<double>(last - begin) / 1e9,
              per_second, all.quantile_us(0.5), all.quantile_us(0.99), all.quantile_us(0.999), all.max_us(),
              after.cpu_seconds - before.cpu_seconds, after.read_bytes - before.read_bytes,
              after.written_bytes - before.written_bytes);
  const bool written = std::fflush(stdout) == 0;
  std::_Exit(written ? 0 : 1);  // the data is left as it is
}

int record(const Options& options) {
  if (options.settings.threads != 1) usage("only one thread is recorded", "--threads");
  if (!PageRecord::begin(options.record)) fail("cannot write the record");
  Workload& workload = *options.kind->make(options.settings).release();
  const std::unique_ptr<Worker> worker = workload.worker(0);
  for (std::uint64_t i = 0; i < options.operations && worker->operate() == Worker::Progress::more; ++i) {
  }
  if (!PageRecord::end()) fail("cannot write the record");
  std::_Exit(0);
}

std::uint64_t parse_size(std::string_view option, std::string_view text) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  unsigned shift = 0;
  if (error == std::errc() && end + 1 == text.data() + text.size()) {
    constexpr std::string_view kSuffixes = "KMGT";
    const std::size_t suffix = kSuffixes.find(*end);
    if (suffix != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(suffix) + 1);
      ++end;
    }
  }
  if (error != std::errc() || end != text.data() + text.size() || value > (UINT64_MAX >> (shift + 1))) {
    usage("not a number that it can have", option);
  }
  return value << shift;
}

Options parse(int argument_count, char** arguments) {
  Options options;
  for (int i = 1; i < argument_count; ++i) {
    const std::string_view word = arguments[i];
    if (!word.starts_with("--")) {
      const Kind* const kind =
          std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& each) { return each.name == word; });
      if (kind == std::end(kKinds) || options.kind != nullptr) usage("one workload, of those that --list names", word);
      options.kind = kind;
      continue;
    }
    if (i + 1 == argument_count) usage("an option without its value, or an unknown one", word);
    const char* const value = arguments[++i];
    if (word == "--device-statistics") {
      options.device = value;
      continue;
    }
    if (word == "--record") {
      options.record = value;
      continue;
    }
    const std::uint64_t number = parse_size(word, value);
    if (word == "--bytes") {
      options.settings.bytes = number;
    } else if (word == "--object-size") {
      if (number < 64 || number % 8 != 0 || number > UINT32_MAX / 2) usage("a multiple of 8, from 64 on", word);
      options.settings.object_size = number;
    } else if (word == "--threads") {
      if (number == 0 || number > 1024) usage("1 to 1024", word);
      options.settings.threads = static_cast<unsigned>(number);
    } else if (word == "--seconds") {
      options.seconds = std::clamp<std::uint64_t>(number, 1, 1'000'000);
    } else if (word == "--warm-up") {
      options.warm_up = std::min<std::uint64_t>(number, 1'000'000);
    } else if (word == "--operations") {
      options.operations = number;
    } else if (word == "--seed") {
      options.settings.seed = number;
    } else {
      usage("an unknown option", word);
    }
  }
  if (options.kind == nullptr) usage("which workload", "?");
  return options;
}

int list() {
  for (const Kind& kind : kKinds) {
    std::printf("%.*s\t%.*s\n", static_cast<int>(kind.name.size()), kind.name.data(),
                static_cast<int>(kind.measures.size()), kind.measures.data());
  }
  return 0;
}

}  // namespace
}  // namespace polder::bench

int main(int argument_count, char** arguments) {
  if (argument_count == 2 && std::string_view(arguments[1]) == "--list") return polder::bench::list();
  const polder::bench::Options options = polder::bench::parse(argument_count, arguments);
  return options.record != nullptr ? polder::bench::record(options) : polder::bench::run(options);
}
