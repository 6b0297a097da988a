#include "ageing/references.h"

#include <list>
#include <queue>
#include <utility>
#include <vector>

#include "base/units.h"

namespace polder::bench {
namespace {

std::size_t page_count(const Trace& trace) { return std::size_t{trace.folios} * kPagesPerFolio; }

}  // namespace

Counts exact_lru(const Trace& trace, std::uint32_t capacity) {
  Counts counts;
  std::list<std::uint32_t> order;  // the page used last is in front
  std::vector<std::list<std::uint32_t>::iterator> places(page_count(trace), order.end());
  std::vector<bool> known(page_count(trace));
  for (const std::uint32_t page : trace.accesses) {
    if (places[page] != order.end()) {
      order.splice(order.begin(), order, places[page]);
      continue;
    }
    if (known[page]) ++counts.misses;
    known[page] = true;
    if (order.size() == capacity) {
      places[order.back()] = order.end();
      order.pop_back();
      ++counts.stored;
    }
    order.push_front(page);
    places[page] = order.begin();
  }
  return counts;
}

Counts optimum(const Trace& trace, std::uint32_t capacity) {
  constexpr std::uint32_t kNever = ~std::uint32_t{0};
  const auto length = static_cast<std::uint32_t>(trace.accesses.size());
  std::vector<std::uint32_t> next_use(length);
  std::vector<std::uint32_t> next(page_count(trace), kNever);
  for (std::uint32_t i = length; i-- > 0;) {
    next_use[i] = next[trace.accesses[i]];
    next[trace.accesses[i]] = i;
  }
  Counts counts;
  // Next uses and pages, the farthest first. An entry counts while it is the page's last.
  std::priority_queue<std::pair<std::uint32_t, std::uint32_t>> resident;
  std::vector<std::uint32_t> entry(page_count(trace), 0);  // next use + 1 of the page's last entry; 0: not resident
  std::vector<bool> known(page_count(trace));
  std::uint32_t used = 0;
  for (std::uint32_t i = 0; i < length; ++i) {
    const std::uint32_t page = trace.accesses[i];
    if (entry[page] == 0) {
      if (known[page]) ++counts.misses;
      known[page] = true;
      if (used == capacity) {
        while (entry[resident.top().second] != static_cast<std::uint64_t>(resident.top().first) + 1) resident.pop();
        entry[resident.top().second] = 0;
        resident.pop();
        ++counts.stored;
        --used;
      }
      ++used;
    }
    // A page that is never used again is as far away as any.
    const std::uint32_t use = next_use[i] == kNever ? kNever - 1 : next_use[i];
    entry[page] = use + 1;
    resident.emplace(use, page);
  }
  return counts;
}

}  // namespace polder::bench
