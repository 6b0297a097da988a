#include "runtime/cli/limit.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "runtime/cli/command_line.h"
#include "runtime/cli/failure.h"
#include "runtime/cli/process.h"
#include "runtime/control.h"
#include "runtime/limits.h"
#include "runtime/options.h"

namespace polder::cli {
namespace {

using Fields = runtime::ControlFields<std::uint64_t>;
static_assert(sizeof(Fields) == sizeof(runtime::ControlBlock), "a copy is as the block");
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBetweenLooks{5};
// For a reclaimer to look after requests, which it does every second, or for a program to come by that allocates.
constexpr std::chrono::seconds kUntilTakenUp{10};
// As long as polder_set_memory_limit tries.
constexpr std::chrono::seconds kUntilItFits{30};

[[noreturn]] void fail_not_found(const Process& process, bool complete) {
  std::string text = absl::StrCat("process ", process.id(), " does not run on this heap, as far as can be seen");
  if (process.name() == "polder") {
    for (const pid_t child : process.children()) absl::StrAppend(&text, "; process ", child, " is its child");
  } else if (complete) {
    absl::StrAppend(&text, "; a program that has it linked in must not be stripped of its symbols");
  } else {
    absl::StrAppend(&text, "; only root can see libraries whose files were replaced");
  }
  fail(kStatusUsage, text);
}

// A process's block. One command at a time has it.
class Control {
 public:
  explicit Control(const Process& process) : process_(process), address_(found(process)) {
    lock_ = open(absl::StrCat("/proc/", process.id()).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock_ >= 0) static_cast<void>(flock(lock_, LOCK_EX));
  }
  ~Control() {
    if (lock_ >= 0) close(lock_);
  }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  Fields fields() const {
    const std::optional<Fields> fields = read(process_, address_);
    if (!fields || fields->asked < asked_) fail(1, absl::StrCat("process ", process_.id(), " has replaced itself"));
    return *fields;
  }

  // Its number.
  std::uint64_t ask(std::uint64_t limit) {
    const std::uint64_t number = fields().asked + 1;
    if (!process_.write(address_ + offsetof(Fields, limit), &limit, sizeof limit) ||
        !process_.write(address_ + offsetof(Fields, asked), &number, sizeof number)) {
      fail(1, absl::StrCat("process ", process_.id(), " has replaced itself"));
    }
    asked_ = number;
    return number;
  }

 private:
  static std::optional<Fields> read(const Process& process, std::uint64_t address) {
    Fields fields{};
    if (!process.read(address, &fields, sizeof fields) || fields.magic != Fields::kMagic) return std::nullopt;
    return fields;
  }

  // The heap that malloc takes from, else the only one.
  static std::uint64_t found(const Process& process) {
    const Process::Places places = process.places_of(runtime::kControlSymbol);
    std::uint64_t beside = 0;
    unsigned others = 0;
    bool old = false;
    for (const std::uint64_t address : places.addresses) {
      const std::optional<Fields> fields = read(process, address);
      if (!fields) continue;
      if (fields->version != Fields::kVersion) {
        old = true;
        continue;
      }
      if (fields->replaces != 0) return address;
      beside = address;
      ++others;
    }
    if (others == 1) return beside;
    if (others > 1) {
      fail(kStatusUsage, absl::StrCat("process ", process.id(), " has ", others,
                                      " heaps beside its malloc's: it can "
                                      "change their limits itself (polder_set_memory_limit)"));
    }
    if (old) {
      fail(kStatusUsage, absl::StrCat("process ", process.id(),
                                      " runs on another version of the library; use the "
                                      "command that belongs to it"));
    }
    fail_not_found(process, places.complete);
  }

  const Process& process_;
  const std::uint64_t address_;
  std::uint64_t asked_ = 0;
  int lock_ = -1;
};

template <typename Condition>
bool wait_for(std::chrono::seconds most, Condition condition) {
  const Clock::time_point end = Clock::now() + most;
  while (!condition()) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  return true;
}

pid_t process_of(absl::string_view word) {
  pid_t id = 0;
  if (!absl::SimpleAtoi(word, &id) || id <= 0) {
    fail(kStatusUsage, absl::StrCat("'", word, "' is no process id; write polder limit PID SIZE"));
  }
  return id;
}

std::uint64_t limit_of(absl::string_view word) {
  const Result<std::uint64_t> size = runtime::parse_size(word.data(), word.size());
  if (!size.ok()) {
    fail(kStatusUsage, absl::StrCat("'", word, "' is ", size.error.code() == ERANGE ? "too large a size" : "not a size",
                                    "; write ", kSizeForm, ", or 0 for no limit"));
  }
  if (size.value != 0 && size.value < runtime::kMinimumLimit) {
    fail(kStatusUsage, absl::StrCat(word, " is below the minimum of ", runtime::kMinimumLimit >> 20, "M"));
  }
  return size.value;
}

}  // namespace

int limit(const std::vector<char*>& arguments) {
  if (arguments.size() == 1 &&
      (absl::string_view(arguments[0]) == "--help" || absl::string_view(arguments[0]) == "-h")) {
    std::fputs(limit_help().c_str(), stdout);
    return 0;
  }
  if (arguments.size() != 2) fail(kStatusUsage, "write polder limit PID SIZE; see 'polder limit --help'");
  const Process process(process_of(arguments[0]));
  const std::uint64_t bytes = limit_of(arguments[1]);
  Control control(process);
  const std::string what = absl::StrCat("process ", process.id());
  const std::string size = bytes == 0 ? "no limit" : absl::StrCat("the limit of ", arguments[1]);

  const std::uint64_t number = control.ask(bytes);
  if (!wait_for(kUntilTakenUp, [&] { return control.fields().taken_up >= number; })) {
    fail(1, absl::StrCat(what, " has not come by its heap for ", kUntilTakenUp.count(), " s: ", size,
                         bytes == 0 ? " is what it has when it does" : " will be in force when it does"));
  }
  const bool settled = wait_for(kUntilItFits, [&] { return control.fields().settled >= number; });
  const Fields fields = control.fields();
  if (fields.limit != bytes || fields.asked != number) fail(1, absl::StrCat("somebody else changed ", what, " too"));
  if (settled && fields.error == EINVAL) {
    fail(kStatusUsage, absl::StrCat(arguments[1], " is less than the heap of ", what,
                                    " needs for its own state by now; nothing changed"));
  }
  if (settled && fields.error == EOPNOTSUPP) {
    fail(1, absl::StrCat(size, " is in force for ", what,
                         ", but more than that is resident, and this machine does not "
                         "allow paging (see 'polder doctor'): allocations fail until it fits"));
  }
  if (!settled || fields.error != 0) {
    fail(1, absl::StrCat(size, " is in force for ", what,
                         ", but more than that is still resident: it is locked, or the "
                         "swap file is full or too slow"));
  }
  absl::PrintF("%s: %s is in force\n", what, size);
  return 0;
}

}  // namespace polder::cli
