#include "runtime/cli/run.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "runtime/cli/command_line.h"
#include "runtime/cli/failure.h"
#include "runtime/cli/preflight.h"
#include "runtime/cli/statistics.h"
#include "runtime/cli/supervisor.h"

namespace polder::cli {
namespace {

// The library first, whatever else is preloaded behind it.
void preload(const std::string& library) {
  std::string value = library;
  if (const char* const present = std::getenv("LD_PRELOAD"); present != nullptr) {
    for (const absl::string_view other : absl::StrSplit(present, absl::ByAnyChar(": "), absl::SkipEmpty())) {
      if (other != library) absl::StrAppend(&value, ":", other);
    }
  }
  setenv("LD_PRELOAD", value.c_str(), 1);
}

void configure(const RunRequest& request) { setenv("POLDER_CONF", preload_configuration(request).c_str(), 1); }

// Runs the command under --stats to its end; its wait status.
int run_with_statistics(const RunRequest& request, const std::string& path) {
  ReportFile file(request.stats_file);
  const SegmentFile segment_file;
  StatisticsSegment& segment = segment_file.segment();
  ResidentSampler sampler(segment);
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();

  Supervision supervision;
  supervision.in_child = [&] {
    segment.header.owner_process = static_cast<std::uint64_t>(getpid());
    RunRequest in_child = request;
    in_child.set("stats-segment", segment_file.path());
    in_child.set("stats-owner", absl::StrCat(getpid()));
    configure(in_child);
  };
  supervision.sample = [&](pid_t process) { return sampler.sample(process); };
  const int wait_status = supervise(path, request.command, supervision);

  const std::chrono::duration<double> wall = Clock::now() - start;
  file.write(report(segment, sampler, {.wait_status = wait_status, .wall_seconds = wall.count()}, request.command));
  return wait_status;
}

}  // namespace

int run(const std::vector<char*>& arguments) {
  RunRequest request = parse_run(arguments);
  if (request.help) {
    std::fputs(run_help().c_str(), stdout);
    return 0;
  }
  const bool limited = request.size("memory") != 0;
  if (limited || request.find("swap-dir") != nullptr) {
    const std::string* const given = request.find("swap-dir");
    const std::string directory = given != nullptr ? *given : option_default("swap-dir");
    // Absolute: the command may be elsewhere when it opens it.
    request.set("swap-dir", check_swap_directory(directory, request.size("swap-size")));
  }
  if (limited) check_userfaultfd();
  const std::string path = find_command(request.command.front());
  warn_if_beyond_reach(path);
  preload(find_preload_library());

  if (request.stats_file.empty()) {
    // Nothing is left to do for us: the command takes our place, and with it our process id, signals and status.
    configure(request);
    execute(path, request.command);
  }
  end_as(run_with_statistics(request, path));
}

}  // namespace polder::cli
