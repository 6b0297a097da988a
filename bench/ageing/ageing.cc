// How well the ageing policies choose: replays the pages that a program touched (pressure --record) in memories that are
// smaller, under each policy, and counts what had to be read back.
//
//   ageing TRACE [--sizes PERCENT,…] [--staging PERCENT]
//
// Sizes are of the pages that the trace has (25,50,75), staging is of the memory (6.25, the pager's own). One line of JSON for each
// policy and size: misses (reads from the store), soft faults (taken back from staging), pages that were stored. Beside the
// policies: `lru`, which sees every access, as no policy without accessed bits can; and `opt`, which evicts the page whose
// next use is farthest away, so that nothing has fewer misses (L. A. Belady, "A Study of Replacement Algorithms for a
// Virtual-Storage Computer", 1966). First touches are no misses.
//
// Status 1: the trace cannot be read; 2: usage.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "ageing/memory.h"
#include "ageing/references.h"
#include "ageing/trace.h"

namespace polder::bench {
namespace {

struct Named {
  const char* name;
  PolicyKind kind;
};
constexpr Named kPolicies[]{{"fifo", PolicyKind::fifo},
                            {"clock", PolicyKind::clock},
                            {"enhanced-clock", PolicyKind::enhanced_clock},
                            {"two-list-lru", PolicyKind::two_list_lru},
                            {"multi-gen-lru", PolicyKind::multi_gen_lru}};

[[noreturn]] void usage() {
  std::fputs("usage: ageing TRACE [--sizes PERCENT,...] [--staging PERCENT]\n", stderr);
  std::exit(2);
}

double percent(const char* text, char** end) {
  const double value = std::strtod(text, end);
  if (*end == text || !(value > 0 && value <= 100)) usage();
  return value;
}

void print(const char* policy, const char* role, double size, const Counts& counts) {
  std::printf("{\"policy\": \"%s\", \"role\": \"%s\", \"size\": %g, \"misses\": %" PRIu64 ", \"soft_faults\": %" PRIu64
              ", \"stored\": %" PRIu64 "}\n",
              policy, role, size, counts.misses, counts.soft_faults, counts.stored);
}

int run(int argument_count, char** arguments) {
  const char* path = nullptr;
  std::vector<double> sizes{25, 50, 75};
  double staging = 6.25;
  for (int i = 1; i < argument_count; ++i) {
    const std::string_view word = arguments[i];
    if (!word.starts_with("--")) {
      if (path != nullptr) usage();
      path = arguments[i];
      continue;
    }
    if (++i == argument_count) usage();
    char* end = arguments[i];
    if (word == "--sizes") {
      sizes.clear();
      do sizes.push_back(percent(sizes.empty() ? end : end + 1, &end));
      while (*end == ',');
    } else if (word == "--staging") {
      staging = percent(arguments[i], &end);
    } else {
      usage();
    }
    if (*end != '\0') usage();
  }
  if (path == nullptr) usage();
  const std::optional<Trace> trace = read_trace(path);
  if (!trace || trace->accesses.empty()) {
    std::fprintf(stderr, "ageing: %s: no trace that can be read\n", path);
    return 1;
  }
  for (const double size : sizes) {
    const auto capacity = std::max<std::uint32_t>(64, static_cast<std::uint32_t>(trace->distinct_pages * size / 100));
    print("opt", "bound", size, optimum(*trace, capacity));
    print("lru", "reference", size, exact_lru(*trace, capacity));
    for (const Named& policy : kPolicies) {
      Memory memory(policy.kind, trace->folios, capacity, static_cast<std::uint32_t>(capacity * staging / 100));
      for (const std::uint32_t page : trace->accesses) memory.access(PageId{page});
      print(policy.name, policy.kind == kDefaultPolicy ? "default" : "policy", size, memory.counts());
    }
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace
}  // namespace polder::bench

int main(int argument_count, char** arguments) { return polder::bench::run(argument_count, arguments); }
