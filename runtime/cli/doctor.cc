#include "runtime/cli/doctor.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "runtime/cli/command_line.h"
#include "runtime/cli/failure.h"
#include "runtime/cli/probes.h"

namespace polder::cli {
namespace {

const char* word(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok:
      return "ok";
    case Verdict::note:
      return "note";
    case Verdict::missing:
      return "missing";
  }
  return "";
}

}  // namespace

int doctor(const std::vector<char*>& arguments) {
  std::string swap_directory = option_default("swap-dir");
  constexpr absl::string_view kSwapDirectory = "--swap-dir";
  for (std::size_t at = 0; at < arguments.size(); ++at) {
    const absl::string_view argument = arguments[at];
    if (argument == "--help" || argument == "-h") {
      absl::PrintF("%s", main_help());
      return 0;
    }
    if (argument == kSwapDirectory && at + 1 < arguments.size()) {
      swap_directory = arguments[++at];
    } else if (argument.substr(0, kSwapDirectory.size() + 1) == absl::StrCat(kSwapDirectory, "=")) {
      swap_directory = std::string(argument.substr(kSwapDirectory.size() + 1));
    } else if (argument == kSwapDirectory) {
      fail(kStatusUsage, "--swap-dir needs a value: --swap-dir DIR");
    } else {
      fail(kStatusUsage, absl::StrCat("unknown option '", argument, "'; see 'polder --help'"));
    }
  }
  for (const Finding& finding : probe_machine(swap_directory)) {
    absl::PrintF("%-8s %-15s %s\n", word(finding.verdict), finding.subject, finding.found);
    if (finding.verdict != Verdict::ok && !finding.advice.empty()) absl::PrintF("%24s > %s\n", "", finding.advice);
  }
  absl::PrintF("tier: %s\n", tier_of_machine());
  return 0;
}

}  // namespace polder::cli
