// The names of the policies, for whoever chooses one without knowing them.
#pragma once

namespace polder {

enum class PolicyKind : unsigned char { fifo, clock, enhanced_clock, two_list_lru, multi_gen_lru };

inline constexpr PolicyKind kDefaultPolicy = PolicyKind::two_list_lru;

}  // namespace polder
