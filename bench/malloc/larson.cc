// A server: threads replace random objects of a table, end, and leave the table to a thread that comes after them, so
// that most objects are freed by another thread than the one that allocated them, and after its end.
#include <memory>
#include <utility>

#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

constexpr unsigned kGenerations = 100;

}  // namespace

Result larson(const Parameters& parameters) {
  const std::size_t share = parameters.live / parameters.threads;
  const std::size_t live = share * parameters.threads;
  const std::uint64_t replacements = parameters.operations / parameters.threads / kGenerations;
  const SizeMix size(parameters.smallest, parameters.largest);
  const std::unique_ptr<void*[]> table(new void*[live]);

  // Neighbours in memory go to different threads.
  Random random(seed_of(parameters, 0));
  for (std::size_t i = 0; i < live; ++i) table[i] = allocate(size(random));
  for (std::size_t i = live; i > 1; --i) std::swap(table[i - 1], table[random.below(i)]);

  const Clock clock;
  on_threads(parameters.threads, [&](unsigned index) {
    void** const slots = table.get() + share * index;
    Random own(seed_of(parameters, index + 1));
    for (unsigned generation = 0; generation < kGenerations; ++generation) {
      std::thread server([&] {
        for (std::uint64_t i = 0; i < replacements; ++i) {
          void*& slot = slots[own.below(share)];
          release(slot);
          slot = allocate(size(own));
        }
      });
      server.join();
    }
  });
  const Result result{replacements * kGenerations * parameters.threads, clock.seconds()};
  for (std::size_t i = 0; i < live; ++i) release(table[i]);
  return result;
}

}  // namespace polder::bench
