// `polder doctor`: what this machine allows, what is missing and how to get it.
#pragma once

#include <vector>

namespace polder::cli {

// Prints the table on standard output. Returns 0 whatever it found; throws Failure on bad usage.
int doctor(const std::vector<char*>& arguments);

}  // namespace polder::cli
