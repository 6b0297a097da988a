// What /proc tells about another process: its mappings' resident bytes, its high-water mark, its environment.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polder::stress {

struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct Resident {
  std::uint64_t inside = 0;   // bytes of the range
  std::uint64_t outside = 0;  // bytes of all other mappings
};

// One walk over smaps; nothing when the process is gone.
std::optional<Resident> walk(pid_t process, Range range);

// VmHWM in bytes, and its reset to what is resident now.
std::optional<std::uint64_t> high_water_mark(pid_t process);
void reset_high_water(pid_t process);

std::vector<pid_t> children_of(pid_t process);

// Of the environment that the process was executed with; empty when it is not set.
std::string environment_variable(pid_t process, std::string_view name);

// The value of a key in POLDER_CONF's text: "key:value,…", with `,` and `\` in values escaped by `\`.
std::string configuration_value(std::string_view configuration, std::string_view key);

// After SIGSTOP: true once every thread of the process stands still (is stopped, or sleeps in the kernel and cannot be
// woken by any of the others), false when that does not come about.
bool wait_until_stopped(pid_t process);

}  // namespace polder::stress
