// Why the command stops before or instead of its work: one line for standard error and the status to exit with.
#pragma once

#include <string>
#include <utility>

namespace polder::cli {

// As shells and env(1) have it.
inline constexpr int kStatusUsage = 2;
inline constexpr int kStatusNotExecutable = 126;
inline constexpr int kStatusNotFound = 127;
inline constexpr int kStatusSignalBase = 128;

// Thrown anywhere, caught in main(), which prints "polder: <text>".
struct Failure {
  int status;
  std::string text;
};

[[noreturn]] inline void fail(int status, std::string text) { throw Failure{status, std::move(text)}; }

void warn(const std::string& text);

}  // namespace polder::cli
