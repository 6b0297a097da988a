// Runs a command and reports what it took.
//
//   measure REPORT [NAME=VALUE…] -- COMMAND [ARGUMENT…]
//
// The variables (LD_PRELOAD among them) are set for the command alone. REPORT gets one line of JSON: the status as
// shells count it, wall-clock, user and system seconds, and the peak of resident memory in KiB, each with the command's
// children. The status of `measure` is the command's. A program of its own because the kernel counts the memory of the
// process that a command was forked from as the command's: here that is next to nothing.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace {

double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

}  // namespace

int main(int argument_count, char** arguments) {
  int command = 2;
  while (command < argument_count && std::strcmp(arguments[command], "--") != 0) ++command;
  if (command + 1 >= argument_count) {
    std::fputs("usage: measure REPORT [NAME=VALUE...] -- COMMAND [ARGUMENT...]\n", stderr);
    return 2;
  }
  const int report = open(arguments[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (report < 0) {
    std::perror(arguments[1]);
    return 2;
  }
  const double begin = now();
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 2; i < command; ++i) putenv(arguments[i]);
    execvp(arguments[command + 1], arguments + command + 1);
    std::perror(arguments[command + 1]);
    _exit(127);
  }
  int state = 0;
  rusage usage{};
  if (child < 0 || wait4(child, &state, 0, &usage) != child) {
    std::perror("measure");
    return 2;
  }
  const double wall = now() - begin;
  const int status = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
  dprintf(report, "{\"status\": %d, \"wall\": %.6f, \"user\": %.6f, \"system\": %.6f, \"peak_kib\": %ld}\n", status,
          wall, seconds(usage.ru_utime), seconds(usage.ru_stime), usage.ru_maxrss);
  return status;
}
