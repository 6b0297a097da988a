#include "runtime/cli/probes.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "os/io_engine.h"
#include "os/mapping.h"
#include "os/userfaultfd.h"
#include "runtime/cli/failure.h"
#include "runtime/cli/preflight.h"
#include "vm/arena.h"

namespace polder::cli {
namespace {

constexpr const char kMoveAdvice[] = "run Linux 6.17 or later, or 6.12.43 or a later 6.12";

std::optional<std::string> read_text(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return std::string(absl::StripAsciiWhitespace(text));
}

std::optional<std::uint64_t> read_number(const std::string& path) {
  const auto text = read_text(path);
  std::uint64_t number = 0;
  if (!text || !absl::SimpleAtoi(*text, &number)) return std::nullopt;
  return number;
}

std::string in_mebibytes(std::uint64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); }

std::string kernel_release() {
  utsname name = {};
  return uname(&name) == 0 ? name.release : "unknown";
}

bool release_moves_safely() {
  int numbers[3] = {};
  std::size_t index = 0;
  for (const char letter : kernel_release()) {
    if (absl::ascii_isdigit(static_cast<unsigned char>(letter))) {
      numbers[index] = numbers[index] * 10 + (letter - '0');
    } else if (letter != '.' || ++index == std::size(numbers)) {
      break;
    }
  }
  return os::kernel_move_is_known_good(numbers[0], numbers[1], numbers[2]);
}

Finding kernel() {
  Finding finding{.subject = "kernel", .found = kernel_release(), .advice = {}};
  if (!release_moves_safely()) {
    finding.verdict = Verdict::missing;
    finding.found += ": UFFDIO_MOVE is absent or known to be faulty";
    finding.advice = kMoveAdvice;
  }
  return finding;
}

void add_userfaultfd(std::vector<Finding>& findings) {
  const Result<os::UffdFeatures> features = os::Userfaultfd::probe();
  Finding finding{.subject = "userfaultfd", .found = {}, .advice = {}};
  if (!features.ok()) {
    finding.verdict = Verdict::missing;
    finding.found = strerror(features.error.code());
    finding.advice = userfaultfd_advice();
    findings.push_back(finding);
    return;
  }
  const bool device = access("/dev/userfaultfd", R_OK | W_OK) == 0;
  finding.found = device ? "by /dev/userfaultfd" : "by the system call";
  findings.push_back(finding);

  const auto feature = [&](const char* name, bool present, const char* absent, const char* advice) {
    findings.push_back({name, present ? Verdict::ok : Verdict::missing, present ? "offered" : absent,
                        present ? std::string() : std::string(advice)});
  };
  feature("UFFDIO_MOVE", features.value.move, "not offered, or not trusted on this kernel", kMoveAdvice);
  feature("UFFDIO_POISON", features.value.poison, "not offered: an unreadable page ends the program",
          "run Linux 6.6 or later");
}

Finding io_uring() {
  const Errno error = os::probe_io_uring();
  if (error.ok()) return {"io_uring", Verdict::ok, "works", {}};
  std::string advice = "swap I/O uses threads instead; to get rings ";
  const auto disabled = read_number("/proc/sys/kernel/io_uring_disabled");
  if (disabled.value_or(0) != 0) {
    absl::StrAppend(&advice, "set sysctl kernel.io_uring_disabled=0");
  } else {
    absl::StrAppend(&advice, "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile");
  }
  return {"io_uring", Verdict::note, strerror(error.code()), advice};
}

// ioctl PAGEMAP_SCAN (include/uapi/linux/fs.h of 6.7) over one page.
Finding pagemap_scan() {
  struct Arguments {
    std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    std::uint64_t inverted, mask, anyof_mask, return_mask;
  };
  constexpr std::uint64_t kPresent = 1U << 3;
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {"PAGEMAP_SCAN", Verdict::missing, strerror(errno), "mount /proc"};
  const absl::Cleanup close_file = [fd] { close(fd); };
  std::uint64_t region[3] = {};
  Arguments arguments = {};
  arguments.size = sizeof(arguments);
  arguments.start = reinterpret_cast<std::uintptr_t>(&arguments) & ~std::uint64_t{kPageSize - 1};
  arguments.end = arguments.start + kPageSize;
  arguments.vec = reinterpret_cast<std::uintptr_t>(region);
  arguments.vec_len = 1;
  arguments.mask = kPresent;
  arguments.return_mask = kPresent;
  if (ioctl(fd, _IOWR('f', 16, Arguments), &arguments) < 0) {
    return {"PAGEMAP_SCAN", Verdict::note, absl::StrCat(strerror(errno), ": /proc/self/pagemap is read instead"),
            "run Linux 6.7 or later"};
  }
  return {"PAGEMAP_SCAN", Verdict::ok, "works", {}};
}

// What a hardened heap puts behind its blocks.
Finding guard_pages() {
  const Result<char*> memory = os::map_private(kPageSize);
  const Errno error = memory.ok() ? os::install_guards(memory.value, kPageSize) : memory.error;
  if (memory.ok()) os::release(memory.value, kPageSize);
  if (error.ok()) return {"guard pages", Verdict::ok, "work", {}};
  return {"guard pages", Verdict::note, absl::StrCat(strerror(error.code()), ": --hardened does without them"),
          "run Linux 6.13 or later"};
}

bool is_memory_filesystem(const std::string& directory) {
  constexpr long kTmpfs = 0x01021994;
  constexpr long kRamfs = 0x858458f6;
  struct statfs status = {};
  return statfs(directory.c_str(), &status) == 0 &&
         (static_cast<long>(status.f_type) == kTmpfs || static_cast<long>(status.f_type) == kRamfs);
}

void add_swap_directory(std::vector<Finding>& findings, const std::string& directory) {
  const std::string subject = "swap directory";
  try {
    check_swap_directory(directory, 0);
  } catch (const Failure& failure) {
    findings.push_back({subject, Verdict::missing, failure.text, "name another with --swap-dir"});
    return;
  }
  if (is_memory_filesystem(directory)) {
    findings.push_back(
        {subject, Verdict::missing, directory + " is itself memory", "name one on a disk with --swap-dir"});
  } else {
    findings.push_back({subject, Verdict::ok, directory, {}});
  }

  const auto opens = [&](int flags) {
    const int fd = open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);
    if (fd >= 0) close(fd);
    return fd >= 0;
  };
  const bool nameless = opens(0);
  findings.push_back({"O_TMPFILE",
                      nameless ? Verdict::ok : Verdict::note,
                      nameless ? "works" : "not supported there: the file has a name for a moment",
                      {}});
  const bool direct = opens(O_DIRECT);
  findings.push_back({"O_DIRECT", direct ? Verdict::ok : Verdict::note,
                      direct ? "works" : "not supported there: swapped pages also sit in the page cache",
                      direct ? "" : "name a directory on ext4, xfs or btrfs with --swap-dir"});
}

Finding huge_pages() {
  const auto text = read_text("/sys/kernel/mm/transparent_hugepage/enabled");
  if (!text) return {"huge pages", Verdict::note, "no transparent huge pages", {}};
  const std::size_t open_bracket = text->find('[');
  const std::size_t close_bracket = text->find(']');
  if (open_bracket == std::string::npos || close_bracket == std::string::npos) {
    return {"huge pages", Verdict::note, *text, {}};
  }
  const std::string setting = text->substr(open_bracket + 1, close_bracket - open_bracket - 1);
  if (setting != "never") return {"huge pages", Verdict::ok, setting, {}};
  return {"huge pages", Verdict::note, setting,
          "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled makes first touches several times cheaper"};
}

Finding overcommit() {
  const auto mode = read_number("/proc/sys/vm/overcommit_memory");
  if (mode.value_or(0) != 2) return {"overcommit", Verdict::ok, mode.value_or(0) == 0 ? "heuristic" : "always", {}};
  return {"overcommit", Verdict::note, "strict: memory in use counts as committed, swapped or not",
          "set sysctl vm.overcommit_memory=0 where allocations fail"};
}

Finding address_space() {
  rlimit limit = {};
  getrlimit(RLIMIT_AS, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return {"address space", Verdict::ok, "unlimited", {}};
  const bool enough = limit.rlim_cur / 2 >= Arena::kSmallestSize;
  return {"address space", enough ? Verdict::note : Verdict::missing,
          absl::StrCat("RLIMIT_AS ", in_mebibytes(limit.rlim_cur), ", half of it for the heap"), "ulimit -v unlimited"};
}

Finding mappings() {
  constexpr std::uint64_t kDefault = 65530;
  const std::uint64_t count = read_number("/proc/sys/vm/max_map_count").value_or(kDefault);
  if (count >= kDefault) return {"max_map_count", Verdict::ok, absl::StrCat(count), {}};
  return {"max_map_count", Verdict::note, absl::StrCat(count), absl::StrCat("set sysctl vm.max_map_count=", kDefault)};
}

// Smallest memory limit among a control group and its ancestors; 0 when there is none.
std::uint64_t lowest_limit(const std::string& root, std::string group, const std::string& file) {
  constexpr std::uint64_t kNone = std::uint64_t{1} << 60;  // v1 writes a huge number for "none"
  std::uint64_t lowest = kNone;
  while (true) {
    if (const auto limit = read_number(absl::StrCat(root, group, "/", file))) lowest = std::min(lowest, *limit);
    if (group.empty() || group == "/") break;
    group.resize(group.rfind('/'));
  }
  return lowest >= kNone ? 0 : lowest;
}

Finding control_group() {
  const auto groups = read_text("/proc/self/cgroup");
  std::uint64_t limit = 0;
  for (const absl::string_view line : absl::StrSplit(groups.value_or(""), '\n')) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    std::uint64_t found = 0;
    if (fields[1].empty()) {
      found = lowest_limit("/sys/fs/cgroup", fields[2], "memory.max");
    } else if (absl::StrContains(absl::StrCat(",", fields[1], ","), ",memory,")) {
      found = lowest_limit("/sys/fs/cgroup/memory", fields[2], "memory.limit_in_bytes");
    }
    if (found != 0) limit = limit == 0 ? found : std::min(limit, found);
  }
  if (limit == 0) return {"control group", Verdict::ok, "no memory limit", {}};
  return {"control group", Verdict::note, absl::StrCat("memory limit ", in_mebibytes(limit)),
          "stay below it with --memory: code, stacks and the page cache are charged there too"};
}

}  // namespace

std::vector<Finding> probe_machine(const std::string& swap_directory) {
  std::vector<Finding> findings;
  findings.push_back(kernel());
  add_userfaultfd(findings);
  findings.push_back(io_uring());
  findings.push_back(pagemap_scan());
  add_swap_directory(findings, swap_directory);
  findings.push_back(guard_pages());
  findings.push_back(huge_pages());
  findings.push_back(overcommit());
  findings.push_back(address_space());
  findings.push_back(mappings());
  findings.push_back(control_group());
  return findings;
}

std::string tier_of_machine() {
  const Result<os::UffdFeatures> features = os::Userfaultfd::probe();
  if (features.ok() && features.value.move) return "full";
  return absl::StrCat("allocator only (hard limit, no paging); for paging ",
                      features.ok() ? std::string(kMoveAdvice) : userfaultfd_advice());
}

}  // namespace polder::cli
