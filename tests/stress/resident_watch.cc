// Runs `polder run --stats FILE … -- PROGRAM` and watches, from outside and in the kernel's own figures, how much of
// the library's address range is resident in PROGRAM's process. The library is asked for nothing but where that range
// lies.
//
//   resident_watch [--limit SIZE] [--limit-file FILE] [--interval-ms N] [--exact-every N] [--report FILE]
//                  [--progress FILE] -- COMMAND…
//
// Three figures, each with its peak in the report:
//   continuous  the kernel's high-water mark of the whole process (VmHWM, reset at each sample) less what was resident
//               outside the range: nothing between two samples escapes it. The kernel's counters are per CPU and may be
//               off by some hundred KiB.
//   sampled     Rss of the range's mappings in /proc/PID/smaps, every --interval-ms (25). The walk takes milliseconds,
//               more on a busy machine, and is no snapshot: what is filled at high addresses while low ones that were
//               counted already are evicted counts twice. A walk that found more than the high-water mark of the same
//               stretch of time is torn so; the mark takes its place.
//   exact       the same walk with the process stopped: every --exact-every samples (8; 0: never), and at once after
//               each walk above the limit.
//
// The limit is --limit or, once something was published there, the one in --limit-file (limit_file.h).
//
// Status: the command's own when that is not 0; 90: the exact figure, or the continuous one by more than its error, was
// above the limit; 91: there was no process to watch, or fewer than 20 samples a second; 92: usage.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/statistics_segment.h"
#include "stress/limit_file.h"
#include "stress/process_memory.h"

namespace polder::stress {
namespace {

constexpr int kStatusAbove = 90;
constexpr int kStatusUnwatched = 91;
constexpr int kStatusUsage = 92;
constexpr double kSlowestRate = 20;
// Two counters (anonymous, file), each off by at most its batch (32 pages, or twice the CPUs) on every CPU.
std::uint64_t counter_error() {
  const auto cpus = static_cast<std::uint64_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  return 2 * cpus * std::max<std::uint64_t>(32, 2 * cpus) * 4096 + (std::uint64_t{1} << 20);
}

volatile std::sig_atomic_t signal_to_pass = 0;

struct Settings {
  std::uint64_t limit = 0;
  const char* limit_file = nullptr;
  const char* report = nullptr;
  const char* progress = nullptr;
  std::uint64_t interval_ms = 25;
  std::uint64_t exact_every = 8;
  char** command = nullptr;
};

double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

void sleep_seconds(double duration) {
  if (duration <= 0) return;
  const auto whole = static_cast<time_t>(duration);
  const timespec time{whole, static_cast<long>((duration - static_cast<double>(whole)) * 1e9)};
  nanosleep(&time, nullptr);
}

[[noreturn]] void usage(const char* problem) {
  std::fprintf(stderr, "resident_watch: %s\n", problem);
  std::exit(kStatusUsage);
}

std::uint64_t parse_size(const char* text) {
  char* end = nullptr;
  std::uint64_t value = std::strtoull(text, &end, 10);
  if (*end == 'G') value <<= 30, ++end;
  if (*end == 'M') value <<= 20, ++end;
  if (*end == 'K') value <<= 10, ++end;
  if (end == text || *end != '\0') usage("not a number or size");
  return value;
}

Settings parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    if (option == "--") {
      settings.command = argv + i + 1;
      break;
    }
    if (i + 1 == argc) usage("an option wants a value");
    const char* value = argv[i + 1];
    if (option == "--limit") {
      settings.limit = parse_size(value);
    } else if (option == "--limit-file") {
      settings.limit_file = value;
    } else if (option == "--interval-ms") {
      settings.interval_ms = parse_size(value);
    } else if (option == "--exact-every") {
      settings.exact_every = parse_size(value);
    } else if (option == "--report") {
      settings.report = value;
    } else if (option == "--progress") {
      settings.progress = value;
    } else {
      usage("unknown option");
    }
  }
  if (settings.command == nullptr || *settings.command == nullptr) usage("no command");
  return settings;
}

// The limit that held over a stretch of time: the highest of those that were in force during it.
class LimitInForce {
 public:
  explicit LimitInForce(const Settings& settings) : fixed_(settings.limit) {
    if (settings.limit_file == nullptr) return;
    file_ = LimitFile::map(settings.limit_file);
    if (file_ == nullptr) usage("cannot map the limit file");
  }

  void begin() {
    changes_ = file_ != nullptr ? file_->changes.load() : 0;
    highest_ = read();
  }
  // 0: no limit is known.
  std::uint64_t over_stretch() {
    const std::uint64_t before = highest_;
    const std::uint64_t after = read();
    seen_highest_ = std::max({seen_highest_, before, after});
    if (file_ == nullptr) return after;
    const std::uint64_t changed = file_->changes.load() - changes_;
    return changed <= 1 ? std::max(before, after) : seen_highest_;
  }

 private:
  std::uint64_t read() const {
    const std::uint64_t published = file_ != nullptr ? file_->limit.load() : 0;
    return published != 0 ? published : fixed_;
  }

  std::uint64_t fixed_;
  LimitFile* file_ = nullptr;
  std::uint64_t changes_ = 0;
  std::uint64_t highest_ = 0;
  std::uint64_t seen_highest_ = 0;
};

struct Figure {
  std::uint64_t peak = 0;
  std::uint64_t samples = 0;
  std::uint64_t above = 0;
  std::uint64_t worst_excess = 0;

  void add(std::uint64_t bytes, std::uint64_t limit) {
    ++samples;
    peak = std::max(peak, bytes);
    if (limit == 0 || bytes <= limit) return;
    ++above;
    worst_excess = std::max(worst_excess, bytes - limit);
  }
};

class Watch {
 public:
  explicit Watch(const Settings& settings) : settings_(settings), limit_(settings) {}

  // Looks for the process that the command set up, then samples it once. False while there is none.
  bool sample(pid_t command) {
    if (process_ == 0 && !find_process(command)) return false;
    const Range range = managed_range();
    if (range.begin == 0) return false;
    const double start = now();
    if (first_ == 0) {
      reset_high_water(process_);
      limit_.begin();
      first_ = last_ = start;
    }
    const auto walked = walk(process_, range);
    if (!walked) return false;
    const std::uint64_t limit = limit_.over_stretch();
    current_ = walked->inside;
    if (const auto high_water = high_water_mark(process_)) {
      reset_high_water(process_);
      // What lies outside grows and shrinks too: the smaller of two walks' figures belongs to an honest bound.
      const std::uint64_t outside = std::min(walked->outside, previous_outside_.value_or(walked->outside));
      const std::uint64_t most = *high_water > outside ? *high_water - outside : 0;
      continuous_.add(most, limit == 0 ? 0 : limit + counter_error());
      if (walked->inside > most + counter_error()) {
        ++torn_;
        current_ = most;
      }
    }
    previous_outside_ = walked->outside;
    sampled_.add(current_, limit);
    longest_gap_ = std::max(longest_gap_, start - last_);
    last_ = start;
    limit_.begin();
    const bool due = settings_.exact_every != 0 && sampled_.samples % settings_.exact_every == 0;
    if (due || (limit != 0 && walked->inside > limit)) exact_sample(command, range);
    return true;
  }

  std::string report(bool finished) const {
    char text[1024];
    const auto n = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
    std::snprintf(text, sizeof text,
                  "{\"process\": %d, \"finished\": %s, \"limit\": %llu, \"current\": %llu, \"samples\": %llu, "
                  "\"rate_hz\": %.1f, \"longest_gap_ms\": %.1f, \"torn\": %llu, \"peak\": %llu, \"above\": %llu, "
                  "\"worst_excess\": %llu, \"exact_samples\": %llu, \"exact_peak\": %llu, \"exact_above\": %llu, "
                  "\"exact_worst_excess\": %llu, \"continuous_peak\": %llu, \"continuous_above\": %llu, "
                  "\"continuous_error\": %llu}\n",
                  process_, finished ? "true" : "false", n(settings_.limit), n(current_), n(sampled_.samples), rate(),
                  longest_gap_ * 1000, n(torn_), n(sampled_.peak), n(sampled_.above), n(sampled_.worst_excess),
                  n(exact_.samples), n(exact_.peak), n(exact_.above), n(exact_.worst_excess), n(continuous_.peak),
                  n(continuous_.above), n(counter_error()));
    return text;
  }

  int verdict() const {
    if (sampled_.samples == 0) {
      std::fprintf(stderr, "resident_watch: no process with a statistics segment was seen\n");
      return kStatusUnwatched;
    }
    const auto mib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
    std::fprintf(
        stderr,
        "resident_watch: %llu samples (%.0f/s, %llu torn), peak %.2f MiB; stopped: %llu samples, peak %.2f MiB; "
        "continuous peak %.2f MiB (+-%.2f)\n",
        static_cast<unsigned long long>(sampled_.samples), rate(), static_cast<unsigned long long>(torn_),
        mib(sampled_.peak), static_cast<unsigned long long>(exact_.samples), mib(exact_.peak), mib(continuous_.peak),
        mib(counter_error()));
    if (sampled_.above > 0) {
      std::fprintf(stderr,
                   "resident_watch: %llu walks above the limit, worst by %.3f MiB, within what cannot be told from "
                   "a torn one\n",
                   static_cast<unsigned long long>(sampled_.above), mib(sampled_.worst_excess));
    }
    if (exact_.above > 0 || continuous_.above > 0) {
      std::fprintf(stderr,
                   "resident_watch: ABOVE THE LIMIT: %llu times stopped (worst by %.3f MiB), "
                   "%llu times continuous (worst by %.3f MiB beyond its error)\n",
                   static_cast<unsigned long long>(exact_.above), mib(exact_.worst_excess),
                   static_cast<unsigned long long>(continuous_.above), mib(continuous_.worst_excess));
      return kStatusAbove;
    }
    if (last_ - first_ > 2 && rate() < kSlowestRate) {
      std::fprintf(stderr, "resident_watch: only %.1f samples a second\n", rate());
      return kStatusUnwatched;
    }
    return 0;
  }

 private:
  double rate() const { return last_ > first_ ? static_cast<double>(sampled_.samples - 1) / (last_ - first_) : 0; }

  // The command itself or a child of it, whichever the configuration in its environment names as the segment's owner.
  bool find_process(pid_t command) {
    std::vector<pid_t> candidates = children_of(command);
    candidates.push_back(command);
    for (const pid_t candidate : candidates) {
      const std::string configuration = environment_variable(candidate, "POLDER_CONF");
      if (configuration_value(configuration, "stats-owner") != std::to_string(candidate)) continue;
      const int fd = open(configuration_value(configuration, "stats-segment").c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) continue;
      void* memory = mmap(nullptr, sizeof(StatisticsSegment), PROT_READ, MAP_SHARED, fd, 0);
      close(fd);
      if (memory == MAP_FAILED) continue;
      segment_ = static_cast<const StatisticsSegment*>(memory);
      process_ = candidate;
      return true;
    }
    return false;
  }

  Range managed_range() const {
    const auto& setup = segment_->setup;
    const std::uint64_t size = setup.arena_size.load();
    if (setup.metadata_base.load() == 0 || size == 0) return {};
    return {setup.metadata_base.load(), setup.arena_base.load() + size};
  }

  // The command is stopped before the process that it supervises and continued after it: it would take the stop for one
  // of job control and pass it on.
  void exact_sample(pid_t command, Range range) {
    const bool supervised = command != process_;
    const bool ready = !supervised || (kill(command, SIGSTOP) == 0 && wait_until_stopped(command));
    if (ready && kill(process_, SIGSTOP) == 0) {
      const bool stopped = wait_until_stopped(process_);
      limit_.begin();
      const auto walked = stopped ? walk(process_, range) : std::nullopt;
      if (walked) exact_.add(walked->inside, limit_.over_stretch());
      kill(process_, SIGCONT);
    }
    if (supervised) kill(command, SIGCONT);
  }

  Settings settings_;
  LimitInForce limit_;
  pid_t process_ = 0;
  const StatisticsSegment* segment_ = nullptr;
  Figure sampled_;
  Figure exact_;
  Figure continuous_;
  std::optional<std::uint64_t> previous_outside_;
  std::uint64_t torn_ = 0;
  std::uint64_t current_ = 0;
  double first_ = 0;
  double last_ = 0;
  double longest_gap_ = 0;
};

// Whoever reads the file sees one report or the next, never half of one.
void write_file(const char* path, const std::string& text) {
  const std::string temporary = std::string(path) + ".new";
  std::FILE* file = std::fopen(temporary.c_str(), "w");
  if (file == nullptr) usage("cannot write a report");
  std::fputs(text.c_str(), file);
  std::fclose(file);
  std::rename(temporary.c_str(), path);
}

void pass_signals_on() {
  struct sigaction action {};
  action.sa_handler = [](int number) { signal_to_pass = number; };
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
}

int run(const Settings& settings) {
  pass_signals_on();
  const pid_t command = fork();
  if (command == 0) {
    execvp(settings.command[0], settings.command);
    std::fprintf(stderr, "resident_watch: %s: %s\n", settings.command[0], std::strerror(errno));
    _exit(127);
  }
  if (command < 0) usage("fork failed");

  Watch watch(settings);
  int status = 0;
  double last_progress = 0;
  const double interval = static_cast<double>(settings.interval_ms) / 1000;
  while (true) {
    const double start = now();
    if (signal_to_pass != 0) {
      kill(command, signal_to_pass);
      signal_to_pass = 0;
    }
    const pid_t ended = waitpid(command, &status, WNOHANG);
    if (ended == command || (ended < 0 && errno != EINTR)) break;
    const bool sampled = watch.sample(command);
    if (settings.progress != nullptr && sampled && start - last_progress > 0.25) {
      write_file(settings.progress, watch.report(false));
      last_progress = start;
    }
    sleep_seconds((sampled ? interval : 0.002) - (now() - start));
  }
  for (const char* path : {settings.progress, settings.report}) {
    if (path != nullptr) write_file(path, watch.report(true));
  }
  const int verdict = watch.verdict();
  if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
  return WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : verdict;
}

}  // namespace
}  // namespace polder::stress

int main(int argc, char** argv) { return polder::stress::run(polder::stress::parse(argc, argv)); }
