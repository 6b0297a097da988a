#include "os/cgroup.h"

#include <cstddef>
#include <initializer_list>
#include <string_view>

#include "os/file.h"

namespace polder::os {
namespace {

class Path {
 public:
  explicit Path(std::string_view start) { append(start); }

  Path& append(std::string_view part) {
    for (const char c : part) {
      if (length_ + 1 < sizeof text_) text_[length_++] = c;
    }
    text_[length_] = '\0';
    return *this;
  }
  const char* c_str() const { return text_; }

 private:
  std::size_t length_ = 0;
  char text_[4096];
};

// substr() without its exception.
std::string_view behind(std::string_view text, std::size_t position) {
  text.remove_prefix(position);
  return text;
}
std::string_view before(std::string_view text, std::size_t position) {
  return {text.data(), position < text.size() ? position : text.size()};
}

bool names_cpu(std::string_view controllers) {
  while (!controllers.empty()) {
    const std::size_t comma = controllers.find(',');
    if (before(controllers, comma) == "cpu") return true;
    if (comma == std::string_view::npos) return false;
    controllers.remove_prefix(comma + 1);
  }
  return false;
}

// Whether the file says so in the group or in one above it. "max …" and -1 mean no limit.
bool rationed_upwards(std::string_view hierarchy, std::string_view group, std::string_view file) {
  for (;;) {
    char content[64];
    const Path path = Path(hierarchy).append(group).append("/").append(file);
    const std::string_view value{content, read_start(path.c_str(), content, sizeof content)};
    if (!value.empty() && value[0] >= '0' && value[0] <= '9') return true;
    const std::size_t slash = group.rfind('/');
    if (group.empty() || slash == std::string_view::npos) return false;
    group = before(group, slash);
  }
}

}  // namespace

bool cpu_is_rationed(const char* membership, const char* mount) {
  char content[4096];
  std::string_view lines{content, read_start(membership, content, sizeof content)};
  while (!lines.empty()) {
    const std::string_view line = before(lines, lines.find('\n'));
    lines.remove_prefix(line.size() < lines.size() ? line.size() + 1 : lines.size());
    // hierarchy id ":" controllers ":" group
    const std::size_t first = line.find(':');
    if (first == std::string_view::npos) continue;
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = before(behind(line, first + 1), second - first - 1);
    std::string_view group = behind(line, second + 1);
    if (group == "/") group = {};
    if (controllers.empty()) {
      for (const std::string_view place : {"", "/unified"}) {
        if (rationed_upwards(Path(mount).append(place).c_str(), group, "cpu.max")) return true;
      }
    } else if (names_cpu(controllers)) {
      for (const std::string_view place : {"/cpu", "/cpu,cpuacct"}) {
        if (rationed_upwards(Path(mount).append(place).c_str(), group, "cpu.cfs_quota_us")) return true;
      }
    }
  }
  return false;
}

}  // namespace polder::os
