// `polder run`.
#pragma once

#include <vector>

namespace polder::cli {

// Becomes the command, or supervises it and ends as it does. Returns 0 after --help; throws Failure.
int run(const std::vector<char*>& arguments);

}  // namespace polder::cli
