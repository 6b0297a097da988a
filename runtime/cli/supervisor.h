// Starts a command and stands in for it: signals sent to this process go on to the command, and its end becomes ours.
//
// The command stays in our process group and session, so job control works as without us. Signals that the terminal
// generates reach the whole group and are not passed on a second time; others are.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace polder::cli {

// Replaces this process. Returns only by throwing Failure.
[[noreturn]] void execute(const std::string& path, std::vector<char*> arguments);

struct Supervision {
  // Called in the child before the command's image replaces it: async-signal-safe work and setenv only.
  std::function<void()> in_child;
  // Called in the parent now and then while the command runs; returns the milliseconds to wait until the next call.
  std::function<int(pid_t)> sample;
};

// Runs the command to its end and returns its wait status. SIGCHLD must be ours alone.
int supervise(const std::string& path, const std::vector<char*>& arguments, const Supervision& supervision);

// Exits with the command's status, or dies of the signal that it died of, leaving no core of our own.
[[noreturn]] void end_as(int wait_status);

}  // namespace polder::cli
