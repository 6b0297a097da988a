#include "runtime/cli/command_line.h"

#include <algorithm>
#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "runtime/cli/failure.h"
#include "runtime/limits.h"
#include "runtime/options.h"

namespace polder::cli {
namespace {

struct OptionSpec {
  absl::string_view name;
  absl::string_view type;
  absl::string_view default_value;  // as the table spells it: "/var/tmp", 0, automatic
  absl::string_view argument;
  absl::string_view help;
};

constexpr OptionSpec kOptions[] = {
#define POLDER_OPTION(identifier, name, type, default_value, argument, help) \
  {name, #type, #default_value, argument, help},
#include "runtime/options.inc"
};

constexpr OptionSpec kStats = {"stats", "string", "\"\"", "FILE",
                               "When the command has ended, write what it did to FILE as JSON: of the command itself, "
                               "not of the programs it starts."};

const OptionSpec* find_option(absl::string_view name) {
  if (name == kStats.name) return &kStats;
  for (const OptionSpec& option : kOptions) {
    if (option.name == name && !option.help.empty()) return &option;
  }
  return nullptr;
}

std::vector<std::string> choices(const OptionSpec& option) { return absl::StrSplit(option.argument, '|'); }

// The value as the preload library will read it.
std::string checked_value(const OptionSpec& option, const std::string& value) {
  if (option.type == "size") {
    const Result<std::uint64_t> size = runtime::parse_size(value.data(), value.size());
    if (size.error.code() == ERANGE) {
      fail(kStatusUsage, absl::StrCat("--", option.name, " '", value, "' is too large"));
    }
    if (!size.ok()) {
      fail(kStatusUsage, absl::StrCat("--", option.name, " '", value, "' is not a size; write ", kSizeForm));
    }
    return absl::StrCat(size.value);
  }
  if (value.empty()) fail(kStatusUsage, absl::StrCat("--", option.name, " needs a value that is not empty"));
  if (option.type == "number") {
    std::uint64_t number = 0;
    if (!absl::SimpleAtoi(value, &number)) {
      fail(kStatusUsage, absl::StrCat("--", option.name, " '", value, "' is not a number"));
    }
    return absl::StrCat(number);
  }
  if (option.type != "string") {
    const auto allowed = choices(option);
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
      fail(kStatusUsage,
           absl::StrCat("--", option.name, " '", value, "' is unknown; choose ", absl::StrJoin(allowed, " or ")));
    }
  }
  return value;
}

// Help text in a column, words wrapped.
std::string wrapped(absl::string_view text, std::size_t indent, std::size_t width) {
  std::string lines;
  std::size_t column = indent;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (column > indent && column + 1 + word.size() > width) {
      absl::StrAppend(&lines, "\n", std::string(indent, ' '));
      column = indent;
    }
    if (column > indent) {
      lines += ' ';
      ++column;
    }
    absl::StrAppend(&lines, word);
    column += word.size();
  }
  return lines;
}

std::string default_text(const OptionSpec& option) {
  if (option.type == "string") {
    const absl::string_view quoted = option.default_value;
    return std::string(quoted.substr(1, quoted.size() - 2));
  }
  if (option.type == "flag") return option.default_value == "true" ? "1" : "0";
  if (option.type == "number") return std::string(option.default_value);
  if (option.type == "size") return option.default_value == "0" ? "" : std::string(option.default_value);
  const auto allowed = choices(option);
  if (allowed.size() == 1) return "";
  return option.default_value == "automatic" ? "auto" : std::string(option.default_value);
}

std::string help_entry(const OptionSpec& option) {
  constexpr std::size_t kIndent = 8;
  constexpr std::size_t kWidth = 96;
  std::string help(option.help);
  if (const std::string value = default_text(option); !value.empty()) absl::StrAppend(&help, " Default: ", value, ".");
  return absl::StrCat("  --", option.name, " ", option.argument, "\n", std::string(kIndent, ' '),
                      wrapped(help, kIndent, kWidth), "\n");
}

}  // namespace

const std::string* RunRequest::find(const std::string& name) const {
  for (const auto& [key, value] : settings) {
    if (key == name) return &value;
  }
  return nullptr;
}

void RunRequest::set(const std::string& name, std::string value) {
  for (auto& [key, present] : settings) {
    if (key == name) {
      present = std::move(value);
      return;
    }
  }
  settings.emplace_back(name, std::move(value));
}

std::uint64_t RunRequest::size(const std::string& name) const {
  const std::string* const value = find(name);
  return value == nullptr ? 0 : runtime::parse_size(value->data(), value->size()).value;
}

RunRequest parse_run(const std::vector<char*>& arguments) {
  RunRequest request;
  std::size_t at = 0;
  for (; at < arguments.size(); ++at) {
    const std::string word = arguments[at];
    if (word == "--") {
      ++at;
      break;
    }
    if (word == "--help" || word == "-h") {
      request.help = true;
      return request;
    }
    if (word.size() < 2 || word[0] != '-') break;  // the command

    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const OptionSpec* const option = name.compare(0, 2, "--") == 0 ? find_option(name.substr(2)) : nullptr;
    if (option == nullptr) fail(kStatusUsage, absl::StrCat("unknown option '", name, "'; see 'polder run --help'"));

    std::string value;
    if (equals != std::string::npos) {
      value = word.substr(equals + 1);
    } else if (++at < arguments.size()) {
      value = arguments[at];
    } else {
      fail(kStatusUsage, absl::StrCat(name, " needs a value: ", name, " ", option->argument));
    }
    value = checked_value(*option, value);
    if (option == &kStats) {
      request.stats_file = value;
    } else {
      request.set(std::string(option->name), value);
    }
  }
  request.command.assign(arguments.begin() + static_cast<std::ptrdiff_t>(at), arguments.end());
  if (request.command.empty()) fail(kStatusUsage, "no command given; see 'polder run --help'");

  const std::uint64_t limit = request.size("memory");
  if (request.find("memory") != nullptr && limit != 0 && limit < runtime::kMinimumLimit) {
    fail(kStatusUsage, absl::StrCat("--memory ", limit, " is below the minimum of ", runtime::kMinimumLimit >> 20,
                                    "M (", runtime::kMinimumLimit, " bytes)"));
  }
  if (const std::string* const text = request.find("watermark-scale"); text != nullptr) {
    std::uint64_t scale = 0;
    if (!absl::SimpleAtoi(*text, &scale) || scale < runtime::kLeastWatermarkScale ||
        scale > runtime::kMostWatermarkScale) {
      fail(kStatusUsage, absl::StrCat("--watermark-scale ", *text, " is not between ", runtime::kLeastWatermarkScale,
                                      " and ", runtime::kMostWatermarkScale));
    }
  }
  const std::uint64_t swap = request.size("swap-size");
  if (swap != 0 && swap < runtime::kMinimumSwap) {
    fail(kStatusUsage, absl::StrCat("--swap-size ", swap, " is below the minimum of ", runtime::kMinimumSwap >> 10,
                                    "K (", runtime::kMinimumSwap, " bytes)"));
  }
  return request;
}

std::string preload_configuration(const RunRequest& request) {
  std::string configuration;
  for (const auto& [name, value] : request.settings) {
    if (!configuration.empty()) configuration += ',';
    absl::StrAppend(&configuration, name, ":");
    for (const char letter : value) {
      if (letter == ',' || letter == '\\') configuration += '\\';
      configuration += letter;
    }
  }
  return configuration;
}

std::string option_default(const std::string& name) {
  const OptionSpec* const option = find_option(name);
  return option == nullptr ? "" : default_text(*option);
}

std::string main_help() {
  return "polder: a heap with a hard memory limit for programs as they are.\n"
         "\n"
         "  polder run [OPTION…] [--] COMMAND [ARGUMENT…]\n"
         "        Run COMMAND with its heap inside a memory limit; what does not fit goes to a swap file.\n"
         "  polder limit PID SIZE\n"
         "        Change the limit of a process that runs so, up or down, 0 for none; wait until it fits.\n"
         "  polder doctor [--swap-dir DIR]\n"
         "        Say what this machine allows, what is missing and how to get it.\n"
         "  polder --help, polder run --help, polder limit --help, polder --version\n";
}

std::string limit_help() {
  return absl::StrCat(
      "polder limit PID SIZE\n"
      "\n"
      "Changes the memory limit of a process that runs on this heap, however it was started: up or down, or to none\n"
      "with 0; and waits until what is resident fits. A process that has not paged yet takes the change up when it\n"
      "next allocates, and its children keep it.\n"
      "\n"
      "For root and the process's own user; where /proc/sys/kernel/yama/ptrace_scope is not 0, for root.\n",
      "SIZE is ", kSizeForm, ", at least ", runtime::kMinimumLimit >> 20, "M.\n",
      "\nExit status: 0 when the limit is in force and kept, 1 when it is not yet, ", kStatusUsage,
      " when nothing changed.\n");
}

std::string run_help() {
  std::string help =
      "polder run [OPTION…] [--] COMMAND [ARGUMENT…]\n"
      "\n"
      "Runs COMMAND with its heap inside a memory limit; what does not fit goes to a swap file and comes back\n"
      "when it is touched.\n"
      "\n"
      "Options:\n";
  for (const OptionSpec& option : kOptions) {
    if (!option.help.empty()) help += help_entry(option);
  }
  help += help_entry(kStats);
  absl::StrAppend(&help, "\nSizes are ", kSizeForm, "; units are powers of 1024.\n",
                  "\nExit status: that of COMMAND, and its death by a signal is repeated; ", kStatusUsage,
                  " for bad usage or surroundings in which\nthe limit could not be kept, ", kStatusNotExecutable,
                  " when COMMAND cannot be run, ", kStatusNotFound, " when it is not found.\n");
  return help;
}

}  // namespace polder::cli
