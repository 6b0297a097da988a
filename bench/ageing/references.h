// What the policies are compared with: algorithms that see every access, or the future.
#pragma once

#include <cstdint>

#include "ageing/memory.h"
#include "ageing/trace.h"

namespace polder::bench {

Counts exact_lru(const Trace& trace, std::uint32_t capacity);
Counts optimum(const Trace& trace, std::uint32_t capacity);

}  // namespace polder::bench
