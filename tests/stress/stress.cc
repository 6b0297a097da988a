// The stress program: threads that keep a number of bytes alive in objects of mixed sizes, replace, resize, free and
// hand them to each other at random, and check every byte. Runs on whatever malloc is preloaded.
//
//   stress [--threads N] [--bytes SIZE] [--seconds N] [--seed N] [--fork] [--limit-changes LOW:HIGH]
//          [--limit-file FILE] [--hang-seconds N]
//
// POLDER_STRESS_SECONDS, POLDER_STRESS_SEED, POLDER_STRESS_THREADS and POLDER_STRESS_BYTES set what the command line
// does not. Status 0: no difference; 1: a difference or a failed allocation; 2: usage; 134 (abort): a thread made no
// progress for --hang-seconds.
#include <malloc.h>

#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>
#include <string_view>
#include <thread>

#include "polder/polder.h"
#include "stress/limit_file.h"
#include "stress/shared_state.h"
#include "stress/worker.h"

#pragma weak polder_set_memory_limit

namespace polder::stress {
namespace {

constexpr unsigned kMostThreads = 64;
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kTick = 50'000'000;
constexpr std::uint64_t kLimitInterval = 2 * kSecond;
constexpr std::uint64_t kReportInterval = 5 * kSecond;

struct Settings {
  std::uint64_t threads = 4;
  std::uint64_t bytes = std::uint64_t{2} << 30;
  std::uint64_t seconds = 30;
  std::uint64_t seed = 0;
  std::uint64_t low_limit = 0;
  std::uint64_t high_limit = 0;
  std::uint64_t hang_seconds = 60;
  const char* limit_file = nullptr;
  bool fork_children = false;
};

[[noreturn]] void usage(const char* problem, const char* value) {
  print("stress: %s: %s\n", problem, value);
  _exit(2);
}

std::uint64_t parse_size(const char* text) {
  char* end = nullptr;
  std::uint64_t value = std::strtoull(text, &end, 0);
  switch (*end) {
    case 'G':
      value <<= 10;
      [[fallthrough]];
    case 'M':
      value <<= 10;
      [[fallthrough]];
    case 'K':
      value <<= 10;
      ++end;
      break;
    default:
      break;
  }
  if (end == text || (*end != '\0' && *end != ':')) usage("not a number", text);
  return value;
}

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? parse_size(value) : otherwise;
}

std::uint64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond + static_cast<std::uint64_t>(time.tv_nsec);
}

void sleep_ns(std::uint64_t duration) {
  const timespec time{static_cast<time_t>(duration / kSecond), static_cast<long>(duration % kSecond)};
  nanosleep(&time, nullptr);
}

Settings parse(int argc, char** argv) {
  Settings settings;
  settings.seed = now_ns() ^ (static_cast<std::uint64_t>(getpid()) << 40);
  settings.threads = from_environment("POLDER_STRESS_THREADS", settings.threads);
  settings.bytes = from_environment("POLDER_STRESS_BYTES", settings.bytes);
  settings.seconds = from_environment("POLDER_STRESS_SECONDS", settings.seconds);
  settings.seed = from_environment("POLDER_STRESS_SEED", settings.seed);
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--fork") {
      settings.fork_children = true;
      continue;
    }
    if (i + 1 == argc) usage("unknown option, or its value is missing", argv[i]);
    const char* value = argv[++i];
    if (option == "--threads") {
      settings.threads = parse_size(value);
    } else if (option == "--bytes") {
      settings.bytes = parse_size(value);
    } else if (option == "--seconds") {
      settings.seconds = parse_size(value);
    } else if (option == "--seed") {
      settings.seed = parse_size(value);
    } else if (option == "--hang-seconds") {
      settings.hang_seconds = parse_size(value);
    } else if (option == "--limit-file") {
      settings.limit_file = value;
    } else if (option == "--limit-changes") {
      const char* colon = std::strchr(value, ':');
      if (colon == nullptr) usage("--limit-changes wants LOW:HIGH, not", value);
      settings.low_limit = parse_size(value);
      settings.high_limit = parse_size(colon + 1);
    } else {
      usage("unknown option", argv[i - 1]);
    }
  }
  if (settings.threads == 0 || settings.threads > kMostThreads) usage("threads", "1 to 64");
  return settings;
}

class Run {
 public:
  explicit Run(const Settings& settings)
      : settings_(settings),
        shared_(new (map_array<Shared>(1)) Shared),
        counters_(map_array<Counters>(kMostThreads)),
        mailboxes_(map_array<Mailbox>(kMostThreads)) {
    for (unsigned i = 0; i < kMostThreads; ++i) new (&counters_[i]) Counters, new (&mailboxes_[i]) Mailbox;
    if (settings.limit_file != nullptr) {
      limits_ = LimitFile::map(settings.limit_file);
      if (limits_ == nullptr) usage("cannot map the limit file", settings.limit_file);
    }
  }

  int go() {
    if (settings_.low_limit != 0 && polder_set_memory_limit == nullptr) {
      usage("--limit-changes needs the library", "polder_set_memory_limit is not there");
    }
    print("stress: seed %llu, %llu threads, %llu MiB of objects, %llu s\n", number(settings_.seed),
          number(settings_.threads), number(settings_.bytes >> 20), number(settings_.seconds));
    const std::uint64_t start = now_ns();
    std::thread threads[kMostThreads];
    for (unsigned i = 0; i < settings_.threads; ++i) {
      threads[i] = std::thread([this, i] {
        Worker worker({i, static_cast<unsigned>(settings_.threads), settings_.bytes / settings_.threads, settings_.seed,
                       settings_.fork_children},
                      shared_, &counters_[i], mailboxes_);
        worker.run();
      });
    }
    supervise(Phase::fill, ~std::uint64_t{0});
    const std::uint64_t filled = now_ns();
    print("stress: filled in %.1f s\n", seconds(filled - start));
    supervise(Phase::churn, filled + settings_.seconds * kSecond);
    const std::uint64_t churned = now_ns();
    supervise(Phase::stop, ~std::uint64_t{0});
    supervise(Phase::verify, ~std::uint64_t{0});
    for (unsigned i = 0; i < settings_.threads; ++i) threads[i].join();
    report("done");
    print("stress: churned for %.1f s, last check of everything in %.1f s, %u changes of the limit; errors 0\n",
          seconds(churned - filled), seconds(now_ns() - churned), limit_changes_);
    return 0;
  }

 private:
  static unsigned long long number(std::uint64_t value) { return value; }
  static double seconds(std::uint64_t ns) { return static_cast<double>(ns) / static_cast<double>(kSecond); }

  // Lets the workers be in `phase` until all have arrived at its end or, in the churn, until `deadline`.
  void supervise(Phase phase, std::uint64_t deadline) {
    shared_->arrived.store(0);
    shared_->phase.store(phase);
    while (now_ns() < deadline && shared_->arrived.load() < settings_.threads) {
      sleep_ns(kTick);
      watch();
      if (phase == Phase::churn) change_limit();
      if (now_ns() - last_report_ > kReportInterval) report("…");
    }
  }

  void report(const char* when) {
    last_report_ = now_ns();
    std::uint64_t sums[5] = {};
    for (unsigned i = 0; i < settings_.threads; ++i) {
      const Counters& c = counters_[i];
      sums[0] += c.operations.load(), sums[1] += c.verified_bytes.load(), sums[2] += c.live_bytes.load();
      sums[3] += c.live_objects.load(), sums[4] += c.children.load();
    }
    print("stress: %s operations %llu, verified %llu MiB, live %llu MiB in %llu objects, children %llu\n", when,
          number(sums[0]), number(sums[1] >> 20), number(sums[2] >> 20), number(sums[3]), number(sums[4]));
  }

  // Ends the process when a worker has stood still for too long.
  void watch() {
    const std::uint64_t now = now_ns();
    for (unsigned i = 0; i < settings_.threads; ++i) {
      const Counters& c = counters_[i];
      const std::uint64_t progress =
          c.operations.load() + c.verified_bytes.load() + c.live_bytes.load() + shared_->arrived.load();
      if (progress != progress_[i] || moved_[i] == 0) {
        progress_[i] = progress;
        moved_[i] = now;
      }
    }
    for (unsigned i = 0; i < settings_.threads; ++i) {
      if (now - moved_[i] < settings_.hang_seconds * kSecond) continue;
      print("stress: HANG: worker %u made no progress for %llu s\n", i, number(settings_.hang_seconds));
      for (unsigned j = 0; j < settings_.threads; ++j) {
        print("stress:   worker %u: %s, still for %.1f s\n", j, counters_[j].doing.load(), seconds(now - moved_[j]));
      }
      std::abort();
    }
  }

  void change_limit() {
    if (settings_.low_limit == 0 || now_ns() - last_change_ < kLimitInterval) return;
    const bool lower = limit_changes_ % 2 == 0;
    const std::uint64_t limit = lower ? settings_.low_limit : settings_.high_limit;
    const std::uint64_t before = now_ns();
    if (!lower && limits_ != nullptr) limits_->publish(limit);
    if (const int error = polder_set_memory_limit(limit); error != 0) {
      print("stress: set_memory_limit(%llu) returned %d\n", number(limit), error);
      _exit(1);
    }
    if (lower && limits_ != nullptr) limits_->publish(limit);
    last_change_ = now_ns();
    print("stress: limit is %llu MiB after %.3f s\n", number(limit >> 20), seconds(last_change_ - before));
    ++limit_changes_;
  }

  Settings settings_;
  Shared* shared_;
  Counters* counters_;
  Mailbox* mailboxes_;
  LimitFile* limits_ = nullptr;
  unsigned limit_changes_ = 0;
  std::uint64_t last_change_ = 0;
  std::uint64_t last_report_ = now_ns();
  std::uint64_t progress_[kMostThreads] = {};
  std::uint64_t moved_[kMostThreads] = {};
};

}  // namespace
}  // namespace polder::stress

int main(int argc, char** argv) {
  polder::stress::Run run(polder::stress::parse(argc, argv));
  return run.go();
}
