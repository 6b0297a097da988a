// `--stats`: the counters that the library keeps, the resident bytes that the kernel sees, and the report made of both.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/statistics_segment.h"

namespace polder::cli {

// The segment's file and this process's view of it. Unlinked at destruction.
class SegmentFile {
 public:
  // In $XDG_RUNTIME_DIR, or /dev/shm. Throws Failure.
  SegmentFile();
  ~SegmentFile();
  SegmentFile(const SegmentFile&) = delete;
  SegmentFile& operator=(const SegmentFile&) = delete;

  const std::string& path() const { return path_; }
  StatisticsSegment& segment() const { return *segment_; }

 private:
  std::string path_;
  StatisticsSegment* segment_ = nullptr;
};

// Resident bytes of the address range that the library reserved, as /proc/PID/smaps has them.
class ResidentSampler {
 public:
  explicit ResidentSampler(const StatisticsSegment& segment) : segment_(segment) {}

  // Takes a sample if the process has set its heap up; the milliseconds until the next one is due: soon at first, then
  // every 100 ms, or rarer where a sample is so dear that sampling would take more than 2 % of a CPU.
  int sample(pid_t process);

  std::uint64_t peak() const { return peak_; }
  std::uint64_t current() const { return current_; }
  std::uint64_t samples() const { return samples_; }

 private:
  const StatisticsSegment& segment_;
  std::uint64_t peak_ = 0;
  std::uint64_t current_ = 0;
  std::uint64_t samples_ = 0;
  int interval_ms_ = 2;
};

// A report file that could be opened for writing before the command started.
class ReportFile {
 public:
  // Throws Failure.
  explicit ReportFile(const std::string& path);
  ~ReportFile();
  ReportFile(const ReportFile&) = delete;
  ReportFile& operator=(const ReportFile&) = delete;

  // Replaces the contents. Throws Failure.
  void write(const std::string& text);

 private:
  std::string path_;
  int fd_ = -1;
};

struct Ending {
  int wait_status = 0;
  double wall_seconds = 0;
};

// The report as JSON: sizes and counts are integers, times seconds.
std::string report(const StatisticsSegment& segment, const ResidentSampler& sampler, const Ending& ending,
                   const std::vector<char*>& command);

}  // namespace polder::cli
