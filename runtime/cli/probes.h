// What the machine allows, found out by trying; one function per line of the doctor's table. None of them changes
// anything that outlives the call.
#pragma once

#include <string>
#include <vector>

namespace polder::cli {

enum class Verdict { ok, note, missing };

struct Finding {
  std::string subject;
  Verdict verdict = Verdict::ok;
  std::string found;
  std::string advice;  // empty when there is nothing to do
};

std::vector<Finding> probe_machine(const std::string& swap_directory);

// "full", or "allocator only (hard limit, no paging)" with what would lift it.
std::string tier_of_machine();

}  // namespace polder::cli
