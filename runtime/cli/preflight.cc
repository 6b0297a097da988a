#include "runtime/cli/preflight.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "os/file.h"
#include "os/userfaultfd.h"
#include "runtime/cli/failure.h"
#include "runtime/limits.h"

namespace polder::cli {
namespace {

enum class Candidate { missing, unusable, runnable };

Candidate judge(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) {
    return errno == ENOENT || errno == ENOTDIR ? Candidate::missing : Candidate::unusable;
  }
  const bool runnable = S_ISREG(status.st_mode) && faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0;
  return runnable ? Candidate::runnable : Candidate::unusable;
}

std::string absolute(const std::string& path) {
  char resolved[PATH_MAX];
  return realpath(path.c_str(), resolved) == nullptr ? path : std::string(resolved);
}

// True when the ELF file asks for no interpreter, so that no ld.so will read LD_PRELOAD.
bool statically_linked(int fd) {
  Elf64_Ehdr header = {};
  if (pread(fd, &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header))) return false;
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64) return false;
  if (header.e_phentsize != sizeof(Elf64_Phdr)) return false;
  for (unsigned index = 0; index < header.e_phnum; ++index) {
    Elf64_Phdr segment = {};
    const auto offset = static_cast<off_t>(header.e_phoff + index * sizeof(segment));
    if (pread(fd, &segment, sizeof(segment), offset) != static_cast<ssize_t>(sizeof(segment))) return false;
    if (segment.p_type == PT_INTERP) return false;
  }
  return true;
}

}  // namespace

void warn(const std::string& text) {
  const std::string line = absl::StrCat("polder: ", text, "\n");
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

std::string find_preload_library() {
  char self[PATH_MAX] = {};
  const ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
  if (length <= 0) fail(kStatusUsage, absl::StrCat("cannot read /proc/self/exe: ", strerror(errno)));
  const std::string binary_directory(self, absl::string_view(self).rfind('/'));

  std::vector<std::string> candidates;
  for (const absl::string_view directory : {"lib", POLDER_INSTALL_LIBDIR}) {
    candidates.push_back(absolute(absl::StrCat(binary_directory, "/../", directory, "/libpolder.so")));
  }
  for (const std::string& candidate : candidates) {
    if (access(candidate.c_str(), R_OK) != 0) continue;
    if (candidate.find_first_of(": \t\n") != std::string::npos) {
      fail(kStatusUsage,
           absl::StrCat("'", candidate, "' cannot be preloaded: LD_PRELOAD takes no path with a blank or a colon"));
    }
    return candidate;
  }
  fail(kStatusUsage, absl::StrCat("libpolder.so is not where this command expects it: ", candidates.front()));
}

std::string find_command(const std::string& name) {
  if (name.empty()) fail(kStatusNotFound, "'': command not found");
  if (name.find('/') != std::string::npos) {
    switch (judge(name)) {
      case Candidate::runnable:
        return name;
      case Candidate::unusable:
        fail(kStatusNotExecutable, absl::StrCat("'", name, "': not an executable file"));
      case Candidate::missing:
        fail(kStatusNotFound, absl::StrCat("'", name, "': command not found"));
    }
  }
  const char* const path = std::getenv("PATH");
  bool unusable = false;
  for (const absl::string_view directory : absl::StrSplit(path == nullptr ? "/bin:/usr/bin" : path, ':')) {
    std::string candidate = directory.empty() ? absl::StrCat("./", name) : absl::StrCat(directory, "/", name);
    switch (judge(candidate)) {
      case Candidate::runnable:
        return candidate;
      case Candidate::unusable:
        unusable = true;
        break;
      case Candidate::missing:
        break;
    }
  }
  if (unusable) fail(kStatusNotExecutable, absl::StrCat("'", name, "': not an executable file"));
  fail(kStatusNotFound, absl::StrCat("'", name, "': command not found"));
}

void warn_if_beyond_reach(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status = {};
  if (fd >= 0 && statically_linked(fd)) {
    warn(absl::StrCat("'", path, "' is statically linked: nothing can be preloaded into it and no limit will hold"));
  } else if (stat(path.c_str(), &status) == 0 && (((status.st_mode & S_ISUID) != 0 && status.st_uid != getuid()) ||
                                                  ((status.st_mode & S_ISGID) != 0 && status.st_gid != getgid()))) {
    warn(absl::StrCat("'", path,
                      "' is set-user-id or set-group-id: nothing is preloaded into it and no limit will hold"));
  }
  if (fd >= 0) close(fd);
}

std::string check_swap_directory(const std::string& directory, std::uint64_t size) {
  const std::string place = absl::StrCat("--swap-dir '", directory, "' ");
  const Result<int> handle = os::open_directory(directory.c_str());
  if (!handle.ok()) {
    switch (handle.error.code()) {
      case ENOENT:
        fail(kStatusUsage, place + "does not exist");
      case ENOTDIR:
        fail(kStatusUsage, place + "is not a directory");
      default:
        fail(kStatusUsage, place + "cannot be opened: " + strerror(handle.error.code()));
    }
  }
  const Result<os::TemporaryFile> file = os::open_temporary(handle.value);
  const Result<std::uint64_t> free = os::free_space(handle.value);
  os::close(handle.value);
  if (file.ok()) os::close(file.value.fd);

  // A full filesystem may refuse the file or take it and have no room for its pages.
  const std::uint64_t wanted = size == 0 ? runtime::kMinimumSwap : size;
  if (free.ok() && free.value < wanted && (file.ok() || file.error.code() == ENOSPC)) {
    fail(kStatusUsage, absl::StrCat(place, "is full: ", free.value, " bytes free, ", wanted, " needed",
                                    size == 0 ? " at least" : " for --swap-size"));
  }
  if (!file.ok()) {
    switch (file.error.code()) {
      case EROFS:
        fail(kStatusUsage, place + "is on a read-only filesystem");
      case EACCES:
      case EPERM:
        fail(kStatusUsage, place + "is not writable");
      case ENOSPC:
      case EDQUOT:
        fail(kStatusUsage, place + "is full");
      default:
        fail(kStatusUsage, place + "cannot hold a swap file: " + strerror(file.error.code()));
    }
  }
  return absolute(directory);
}

std::string userfaultfd_advice() {
  return "run as root, or give access to /dev/userfaultfd (a udev rule), or set sysctl vm.unprivileged_userfaultfd=1";
}

void check_userfaultfd() {
  const Result<os::UffdFeatures> features = os::Userfaultfd::probe();
  if (!features.ok()) {
    const int error = features.error.code();
    if (error == EACCES || error == EPERM) {
      fail(kStatusUsage, absl::StrCat("no permission to use userfaultfd: ", userfaultfd_advice()));
    }
    fail(kStatusUsage, absl::StrCat("userfaultfd is not available (", strerror(error), "): --memory needs it"));
  }
}

}  // namespace polder::cli
