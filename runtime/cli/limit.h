// `polder limit PID SIZE`: changes the limit of a process that runs on this heap, up or down.
#pragma once

#include <vector>

namespace polder::cli {

// `arguments` are those behind "limit". The exit status: 0 when the limit is in force and what is resident fits, 1 when it
// is not. Throws Failure.
int limit(const std::vector<char*>& arguments);

}  // namespace polder::cli
