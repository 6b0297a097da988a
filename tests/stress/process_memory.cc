#include "stress/process_memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace polder::stress {
namespace {

constexpr std::uint64_t kPageShift = 12;

std::string proc_path(pid_t process, const char* file) { return "/proc/" + std::to_string(process) + "/" + file; }

std::optional<std::string> read_all(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  std::string text;
  std::size_t length = 0;
  while (true) {
    text.resize(length + (std::size_t{1} << 18));
    const ssize_t got = read(fd, text.data() + length, text.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      close(fd);
      if (got < 0) return std::nullopt;
      break;
    }
    length += static_cast<std::size_t>(got);
  }
  text.resize(length);
  return text;
}

// Present pages from pagemap, for a mapping that the range covers in part only.
std::uint64_t present_bytes(pid_t process, Range range) {
  const int fd = open(proc_path(process, "pagemap").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  std::vector<std::uint64_t> entries(8192);
  std::uint64_t present = 0;
  for (std::uint64_t page = range.begin >> kPageShift; page < range.end >> kPageShift;) {
    const std::size_t wanted = std::min<std::size_t>(entries.size(), (range.end >> kPageShift) - page);
    const ssize_t got = pread(fd, entries.data(), wanted * 8, static_cast<off_t>(page * 8));
    if (got < 8) break;
    const auto count = static_cast<std::size_t>(got) / 8;
    for (std::size_t i = 0; i < count; ++i) present += entries[i] >> 63;
    page += count;
  }
  close(fd);
  return present << kPageShift;
}

std::optional<std::uint64_t> status_field(pid_t process, const char* name) {
  const auto text = read_all(proc_path(process, "status"));
  if (!text) return std::nullopt;
  const std::size_t at = text->find(name);
  if (at == std::string::npos) return std::nullopt;
  return std::strtoull(text->c_str() + at + std::strlen(name), nullptr, 10) << 10;
}

// The state letter in a stat file follows the command's name in parentheses, which may hold anything.
char state_in(const std::string& stat) {
  const std::size_t end = stat.rfind(')');
  return end == std::string::npos || end + 2 >= stat.size() ? '?' : stat[end + 2];
}

}  // namespace

std::optional<Resident> walk(pid_t process, Range range) {
  const auto text = read_all(proc_path(process, "smaps"));
  if (!text || text->empty()) return std::nullopt;
  Resident resident;
  Range mapping;
  for (const char* line = text->c_str(); *line != '\0';) {
    const char* end = std::strchr(line, '\n');
    if (end == nullptr) break;
    if (std::strncmp(line, "Rss:", 4) == 0) {
      const std::uint64_t rss = std::strtoull(line + 4, nullptr, 10) << 10;
      const Range common{std::max(mapping.begin, range.begin), std::min(mapping.end, range.end)};
      std::uint64_t inside = 0;
      if (common.begin < common.end) {
        const bool whole = common.begin == mapping.begin && common.end == mapping.end;
        inside = whole || rss == 0 ? rss : std::min(rss, present_bytes(process, common));
      }
      resident.inside += inside;
      resident.outside += rss - inside;
    } else if (*line < 'A' || *line >= 'a') {  // an address; the names of fields begin with a capital
      char* next = nullptr;
      mapping.begin = std::strtoull(line, &next, 16);
      mapping.end = std::strtoull(next + 1, nullptr, 16);
    }
    line = end + 1;
  }
  return resident;
}

std::optional<std::uint64_t> high_water_mark(pid_t process) { return status_field(process, "VmHWM:"); }

void reset_high_water(pid_t process) {
  const int fd = open(proc_path(process, "clear_refs").c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, "5", 1) < 0) std::perror("resident_watch: clear_refs");
  close(fd);
}

std::vector<pid_t> children_of(pid_t process) {
  std::vector<pid_t> children;
  DIR* const directory = opendir(proc_path(process, "task").c_str());
  if (directory == nullptr) return children;
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] == '.') continue;
    const auto text = read_all(proc_path(process, "task/") + entry->d_name + "/children");
    if (!text) continue;
    const char* at = text->c_str();
    for (char* next = nullptr;; at = next) {
      const long child = std::strtol(at, &next, 10);
      if (next == at) break;
      children.push_back(static_cast<pid_t>(child));
    }
  }
  closedir(directory);
  return children;
}

std::string environment_variable(pid_t process, std::string_view name) {
  const auto text = read_all(proc_path(process, "environ"));
  if (!text) return {};
  for (std::size_t at = 0; at < text->size();) {
    const std::string_view entry = text->c_str() + at;
    if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=') {
      return std::string(entry.substr(name.size() + 1));
    }
    at += entry.size() + 1;
  }
  return {};
}

std::string configuration_value(std::string_view configuration, std::string_view key) {
  for (std::size_t at = 0; at < configuration.size();) {
    std::string entry;
    for (; at < configuration.size() && configuration[at] != ','; ++at) {
      if (configuration[at] == '\\' && at + 1 < configuration.size()) ++at;
      entry += configuration[at];
    }
    ++at;
    if (entry.size() > key.size() && entry.starts_with(key) && entry[key.size()] == ':') {
      return entry.substr(key.size() + 1);
    }
  }
  return {};
}

bool wait_until_stopped(pid_t process) {
  const std::string tasks = proc_path(process, "task");
  constexpr int kTries = 500;
  constexpr int kPatience = 100;  // from then on, threads that sleep in the kernel for a stopped pager count as still
  for (int tries = 0; tries < kTries; ++tries) {
    DIR* const directory = opendir(tasks.c_str());
    if (directory == nullptr) return false;
    bool running = false;
    while (const dirent* entry = readdir(directory)) {
      if (entry->d_name[0] == '.') continue;
      const auto stat = read_all(tasks + "/" + entry->d_name + "/stat");
      const char state = stat ? state_in(*stat) : 'T';
      const bool still = state == 'T' || state == 't' || state == 'Z' || state == 'X';
      const bool asleep = state == 'S' || state == 'D';
      running = running || !(still || (asleep && tries > kPatience));
    }
    closedir(directory);
    if (!running) return true;
    usleep(200);
  }
  return false;
}

}  // namespace polder::stress
