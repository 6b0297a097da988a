// Allocate many, then free them all in the order of allocation: on one thread (batch) and on several (threadtest).
#include <memory>

#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

// Returns the number of pairs.
std::uint64_t batches(std::uint64_t pairs, std::size_t live, std::size_t size) {
  const std::unique_ptr<void*[]> objects(new void*[live]);
  const std::uint64_t rounds = pairs / live + (pairs < live ? 1 : 0);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < live; ++i) objects[i] = allocate(size);
    for (std::size_t i = 0; i < live; ++i) release(objects[i]);
  }
  return rounds * live;
}

}  // namespace

Result batch(const Parameters& parameters) {
  const Clock clock;
  const std::uint64_t pairs = batches(parameters.operations, parameters.live, parameters.smallest);
  return {pairs, clock.seconds()};
}

Result threadtest(const Parameters& parameters) {
  std::vector<std::uint64_t> pairs(parameters.threads);
  const Clock clock;
  on_threads(parameters.threads, [&](unsigned index) {
    pairs[index] =
        batches(parameters.operations / parameters.threads, parameters.live / parameters.threads, parameters.smallest);
  });
  Result result{0, clock.seconds()};
  for (const std::uint64_t count : pairs) result.operations += count;
  return result;
}

}  // namespace polder::bench
