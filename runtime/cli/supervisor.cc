#include "runtime/cli/supervisor.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "runtime/cli/failure.h"

namespace polder::cli {
namespace {

// Signals that are passed on. The rest are either uncatchable or raised by our own faults.
sigset_t forwarded_signals() {
  sigset_t set;
  sigfillset(&set);
  for (const int signal : {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS}) {
    sigdelset(&set, signal);
  }
  return set;
}

bool reached_whole_group(const siginfo_t& info) { return info.si_code == SI_KERNEL; }

timespec from_ms(int milliseconds) {
  return {.tv_sec = milliseconds / 1000, .tv_nsec = static_cast<long>(milliseconds % 1000) * 1'000'000};
}

// Passes a signal on with the value that sigqueue(3) may have given it.
void forward(pid_t child, const siginfo_t& info) {
  if (info.si_code == SI_QUEUE) {
    sigqueue(child, info.si_signo, info.si_value);
  } else {
    kill(child, info.si_signo);
  }
}

}  // namespace

void execute(const std::string& path, std::vector<char*> arguments) {
  arguments.push_back(nullptr);
  execv(path.c_str(), arguments.data());
  if (errno == ENOEXEC) {
    // A script without an interpreter line, as execvp and every shell have it.
    std::string shell = "/bin/sh";
    std::string script = path;
    arguments[0] = script.data();
    arguments.insert(arguments.begin(), shell.data());
    execv(shell.c_str(), arguments.data());
  }
  fail(kStatusNotExecutable, absl::StrCat("'", path, "': ", strerror(errno)));
}

int supervise(const std::string& path, const std::vector<char*>& arguments, const Supervision& supervision) {
  const sigset_t watched = forwarded_signals();
  sigset_t inherited;
  sigprocmask(SIG_BLOCK, &watched, &inherited);
  // Inherited as ignored, SIGCHLD would take the child's status away; the child gets it back as it was.
  struct sigaction child_action = {};
  struct sigaction default_action = {};
  default_action.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &default_action, &child_action);

  const pid_t child = fork();
  if (child < 0) fail(kStatusNotExecutable, absl::StrCat("fork: ", strerror(errno)));
  if (child == 0) {
    try {
      if (supervision.in_child) supervision.in_child();
      sigaction(SIGCHLD, &child_action, nullptr);
      sigprocmask(SIG_SETMASK, &inherited, nullptr);
      execute(path, arguments);
    } catch (const Failure& failure) {
      warn(failure.text);
      _exit(failure.status);
    }
  }

  int pause_ms = 1;
  while (true) {
    const timespec pause = from_ms(pause_ms);
    siginfo_t info = {};
    const int signal = sigtimedwait(&watched, &info, &pause);
    if (signal < 0 && errno == EAGAIN) {
      pause_ms = supervision.sample(child);
      continue;
    }
    if (signal > 0 && signal != SIGCHLD && (!reached_whole_group(info) || signal == SIGCONT)) forward(child, info);

    int status = 0;
    while (true) {
      const pid_t changed = waitpid(child, &status, WNOHANG | WUNTRACED);
      if (changed != child) break;
      if (!WIFSTOPPED(status)) return status;
      if (WSTOPSIG(status) == SIGSTOP) continue;  // somebody stopped the command, not the job
      raise(SIGSTOP);                             // a job stops as a whole, and is continued as a whole
      kill(child, SIGCONT);
    }
  }
}

void end_as(int wait_status) {
  if (WIFEXITED(wait_status)) std::_Exit(WEXITSTATUS(wait_status));
  const int signal = WTERMSIG(wait_status);
  const rlimit no_core = {.rlim_cur = 0, .rlim_max = 0};
  setrlimit(RLIMIT_CORE, &no_core);
  prctl(PR_SET_DUMPABLE, 0);  // a core pattern that is a pipe ignores the limit
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  raise(signal);
  std::_Exit(kStatusSignalBase + signal);
}

}  // namespace polder::cli
