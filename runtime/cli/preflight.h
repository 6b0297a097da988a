// What must be true before a command is started: checked here so that the answer is one line now and not a death later.
// All functions throw Failure.
#pragma once

#include <cstdint>
#include <string>

namespace polder::cli {

// Absolute path of the preload library, found beside this very binary.
std::string find_preload_library();

// Absolute path of what execvp would run. Status 127 when there is none, 126 when it cannot be executed.
std::string find_command(const std::string& name);

// Warns when a preloaded library cannot reach the program: statically linked, or set-user-id.
void warn_if_beyond_reach(const std::string& path);

// Absolute path of the directory, which can hold a swap file of `size` bytes (0: of the smallest size that works).
std::string check_swap_directory(const std::string& directory, std::uint64_t size);

// That page faults can be handled.
void check_userfaultfd();

// How to get the permission: shared with the doctor.
std::string userfaultfd_advice();

}  // namespace polder::cli
