#include "runtime/cli/statistics.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/units.h"
#include "runtime/cli/failure.h"

namespace polder::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kNanosecond = 1e-9;

std::uint64_t value(const Counter& counter) { return counter.load(std::memory_order_relaxed); }

struct Range {
  std::uint64_t begin;
  std::uint64_t end;
};

// Everything the library holds lies between the start of its metadata and the end of its arena.
Range reserved_range(const StatisticsSegment& segment) {
  const auto& setup = segment.setup;
  return {value(setup.metadata_base), value(setup.arena_base) + value(setup.arena_size)};
}

std::optional<std::string> read_all(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  const absl::Cleanup close_file = [fd] { close(fd); };
  constexpr std::size_t kChunk = std::size_t{1} << 18;
  std::string text;
  std::size_t length = 0;
  while (true) {
    text.resize(length + kChunk);
    const ssize_t got = read(fd, text.data() + length, kChunk);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    length += static_cast<std::size_t>(got);
    if (got == 0) break;
  }
  text.resize(length);
  return text;
}

// Present pages of a range, from pagemap: for the one mapping at either end that the kernel may have merged with a
// neighbour outside the range.
std::uint64_t present_bytes(pid_t process, Range range) {
  const int fd = open(absl::StrCat("/proc/", process, "/pagemap").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const absl::Cleanup close_file = [fd] { close(fd); };
  std::vector<std::uint64_t> entries(8192);
  std::uint64_t present = 0;
  for (std::uint64_t page = range.begin >> kPageShift; page < range.end >> kPageShift;) {
    const std::size_t wanted = std::min<std::size_t>(entries.size(), (range.end >> kPageShift) - page);
    const ssize_t got =
        pread(fd, entries.data(), wanted * sizeof(entries[0]), static_cast<off_t>(page * sizeof(entries[0])));
    if (got <= 0) break;
    const std::size_t count = static_cast<std::size_t>(got) / sizeof(entries[0]);
    for (std::size_t index = 0; index < count; ++index) present += entries[index] >> 63;
    page += count;
  }
  return present << kPageShift;
}

// One walk over smaps. The file is not a snapshot: a page that moves upwards meanwhile is seen twice, one that moves
// downwards not at all.
std::optional<std::uint64_t> resident_bytes(pid_t process, Range range) {
  const auto smaps = read_all(absl::StrCat("/proc/", process, "/smaps"));
  if (!smaps || smaps->empty()) return std::nullopt;
  std::uint64_t resident = 0;
  Range mapping = {0, 0};
  const char* line = smaps->c_str();
  while (*line != '\0') {
    const char* end = std::strchr(line, '\n');
    if (end == nullptr) end = line + std::strlen(line);
    char* next = nullptr;
    if (std::strncmp(line, "Rss:", 4) == 0) {
      if (mapping.begin < range.end && mapping.end > range.begin) {
        const std::uint64_t rss = std::strtoull(line + 4, nullptr, 10) << 10;
        const Range inside = {std::max(mapping.begin, range.begin), std::min(mapping.end, range.end)};
        const bool whole = inside.begin == mapping.begin && inside.end == mapping.end;
        resident += whole || rss == 0 ? rss : present_bytes(process, inside);
      }
    } else if (*line < 'A' || *line >= 'a') {  // fields begin with a capital, addresses with a digit or a small letter
      mapping.begin = std::strtoull(line, &next, 16);
      mapping.end = std::strtoull(next + 1, nullptr, 16);
    }
    line = *end == '\0' ? end : end + 1;
  }
  return resident;
}

const char* tier_name(std::uint64_t tier) {
  switch (static_cast<StatisticsTier>(tier)) {
    case StatisticsTier::full:
      return "full";
    case StatisticsTier::copy:
      return "full, with copies";
    case StatisticsTier::allocator_only:
      return "allocator only";
    case StatisticsTier::unknown:
      break;
  }
  return "unknown";
}

const char* backend_name(std::uint64_t backend) {
  switch (static_cast<StatisticsBackend>(backend)) {
    case StatisticsBackend::uring:
      return "uring";
    case StatisticsBackend::workers:
      return "workers";
    case StatisticsBackend::none:
      break;
  }
  return "none";
}

}  // namespace

SegmentFile::SegmentFile() {
  const char* const runtime_directory = std::getenv("XDG_RUNTIME_DIR");
  std::vector<std::string> directories;
  if (runtime_directory != nullptr && runtime_directory[0] == '/') directories.emplace_back(runtime_directory);
  directories.emplace_back("/dev/shm");

  int fd = -1;
  for (const std::string& directory : directories) {
    path_ = absl::StrCat(directory, "/polder-stats-XXXXXX");
    fd = mkostemp(path_.data(), O_CLOEXEC);  // mode 0600
    if (fd >= 0) break;
  }
  if (fd < 0) {
    fail(kStatusUsage, absl::StrCat("no place for the statistics segment: ", path_, ": ", strerror(errno)));
  }
  void* memory = MAP_FAILED;
  if (ftruncate(fd, sizeof(StatisticsSegment)) == 0) {
    memory = mmap(nullptr, sizeof(StatisticsSegment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  const int error = errno;
  close(fd);
  if (memory == MAP_FAILED) {
    unlink(path_.c_str());
    fail(kStatusUsage, absl::StrCat("no room for the statistics segment: ", path_, ": ", strerror(error)));
  }
  segment_ = new (memory) StatisticsSegment;
  segment_->header.size = sizeof(StatisticsSegment);
}

SegmentFile::~SegmentFile() {
  munmap(segment_, sizeof(StatisticsSegment));
  unlink(path_.c_str());
}

int ResidentSampler::sample(pid_t process) {
  constexpr int kIntervalMs = 100;
  constexpr int kCostFactor = 50;
  constexpr int kRepeats = 4;
  interval_ms_ = std::min(kIntervalMs, interval_ms_ * 2);

  const Range range = reserved_range(segment_);
  if (range.begin == 0 || range.end <= range.begin) return interval_ms_;

  const Clock::time_point start = Clock::now();
  std::optional<std::uint64_t> resident = resident_bytes(process, range);
  // Above the limit, a page seen twice has to be told from one too many: the first does not repeat.
  const std::uint64_t limit = value(segment_.setup.limit_bytes);
  for (int repeat = 0; resident && limit != 0 && *resident > limit && repeat < kRepeats; ++repeat) {
    const auto again = resident_bytes(process, range);
    resident = again ? std::min(*resident, *again) : resident;
  }
  if (!resident) return interval_ms_;
  current_ = *resident;
  peak_ = std::max(peak_, current_);
  ++samples_;
  const auto cost = std::chrono::duration_cast<std::chrono::milliseconds>((Clock::now() - start) * kCostFactor).count();
  return std::max(interval_ms_, static_cast<int>(std::min<long>(cost, 60'000)));
}

ReportFile::ReportFile(const std::string& path) : path_(path) {
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
  if (fd_ < 0) fail(kStatusUsage, absl::StrCat("--stats '", path, "' cannot be written: ", strerror(errno)));
}

ReportFile::~ReportFile() { close(fd_); }

void ReportFile::write(const std::string& text) {
  if (ftruncate(fd_, 0) != 0 && errno != EINVAL) {  // EINVAL: a pipe or a device
    fail(kStatusUsage, absl::StrCat("--stats '", path_, "': ", strerror(errno)));
  }
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(fd_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(kStatusUsage, absl::StrCat("--stats '", path_, "': ", strerror(errno)));
    done += static_cast<std::size_t>(written);
  }
}

std::string report(const StatisticsSegment& segment, const ResidentSampler& sampler, const Ending& ending,
                   const std::vector<char*>& command) {
  const auto& [header, setup, allocation, pager, reclaim] = segment;
  const auto seconds = [](const Counter& counter) { return static_cast<double>(value(counter)) * kNanosecond; };
  const bool signalled = WIFSIGNALED(ending.wait_status);

  nlohmann::ordered_json json;
  json["command"] = std::vector<std::string>(command.begin(), command.end());
  json["exit_status"] = signalled ? kStatusSignalBase + WTERMSIG(ending.wait_status) : WEXITSTATUS(ending.wait_status);
  json["signal"] = signalled ? nlohmann::ordered_json(WTERMSIG(ending.wait_status)) : nlohmann::ordered_json(nullptr);
  json["wall_seconds"] = ending.wall_seconds;
  json["limit"] = value(setup.limit_bytes);
  json["resident"] = {{"peak", sampler.peak()}, {"current", sampler.current()}, {"samples", sampler.samples()}};
  json["charged"] = {{"peak", value(allocation.peak_charged_bytes)}, {"current", value(allocation.charged_bytes)}};
  json["metadata"] = value(allocation.metadata_bytes);
  json["stored"] = value(reclaim.stored_pages) << kPageShift;
  json["stored_same_filled"] = value(reclaim.same_filled_pages) << kPageShift;
  json["faults"] = value(pager.faults);
  json["soft_faults"] = value(pager.soft_faults);
  json["fills"] = {{"zero", value(pager.fills_zero)},
                   {"staged", value(pager.fills_staged)},
                   {"swap", value(pager.fills_swap)},
                   {"same_filled", value(pager.fills_same_filled)},
                   {"readahead", value(pager.fills_readahead)}};
  json["evictions"] = value(reclaim.evictions);
  json["clean_drops"] = value(reclaim.clean_drops);
  json["purged"] = value(allocation.purged_pages);
  json["moved"] = value(allocation.moved_pages);
  json["bytes_read"] = value(pager.bytes_read);
  json["bytes_written"] = value(reclaim.bytes_written);
  json["io_errors"] = value(pager.read_errors) + value(reclaim.write_errors);
  json["fill_wait_seconds"] = seconds(pager.fill_wait_ns);
  json["throttled_seconds"] = seconds(allocation.throttled_ns);
  json["blocks"] = {{"native", value(allocation.native_blocks)}, {"managed", value(allocation.managed_blocks)}};
  json["forks"] = value(allocation.forks);
  json["armed"] = value(setup.armed) != 0;
  json["tier"] = tier_name(value(setup.tier));
  json["backend"] = backend_name(value(setup.backend));
  // Words of the command line are bytes of any kind; JSON is UTF-8.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace polder::cli
