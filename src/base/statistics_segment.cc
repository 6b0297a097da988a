#include "base/statistics_segment.h"

namespace polder {
namespace {

template <typename Group>
void zero_all(Group& group) {
  static_assert(sizeof(Group) % sizeof(Counter) == 0);
  auto* const first = reinterpret_cast<Counter*>(&group);
  for (std::size_t index = 0; index < sizeof(Group) / sizeof(Counter); ++index) {
    first[index].store(0, std::memory_order_relaxed);
  }
}

}  // namespace

void reset(StatisticsSegment& segment) {
  zero_all(segment.setup);
  zero_all(segment.allocation);
  zero_all(segment.pager);
  zero_all(segment.reclaim);
}

}  // namespace polder
