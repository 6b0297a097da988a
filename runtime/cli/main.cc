// `polder`: runs a command under the preload library, changes its limit, and says what the machine allows.
#include <cstdio>
#include <exception>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/cli/command_line.h"
#include "runtime/cli/doctor.h"
#include "runtime/cli/failure.h"
#include "runtime/cli/limit.h"
#include "runtime/cli/run.h"

namespace polder::cli {
namespace {

int dispatch(const std::vector<char*>& words) {
  if (words.empty()) {
    std::fputs(main_help().c_str(), stderr);
    return kStatusUsage;
  }
  const absl::string_view verb = words.front();
  const std::vector<char*> rest(words.begin() + 1, words.end());
  if (verb == "run") return run(rest);
  if (verb == "limit") return limit(rest);
  if (verb == "doctor") return doctor(rest);
  if (verb == "--help" || verb == "-h" || verb == "help") {
    std::fputs(main_help().c_str(), stdout);
    return 0;
  }
  if (verb == "--version") {
    std::puts("polder " POLDER_VERSION);
    return 0;
  }
  fail(kStatusUsage,
       absl::StrCat("unknown ", verb.substr(0, 1) == "-" ? "option" : "command", " '", verb, "'; see 'polder --help'"));
}

}  // namespace
}  // namespace polder::cli

int main(int count, char** words) {
  try {
    return polder::cli::dispatch(std::vector<char*>(words + 1, words + count));
  } catch (const polder::cli::Failure& failure) {
    polder::cli::warn(failure.text);
    return failure.status;
  } catch (const std::exception& error) {
    polder::cli::warn(error.what());
    return polder::cli::kStatusUsage;
  }
}
