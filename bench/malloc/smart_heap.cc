// Mixed small sizes, the small ones more often. Groups of objects are freed youngest first; a part of each is kept, and
// later freed oldest first. sh8 has many threads, and gives what is kept to another thread.
#include <algorithm>
#include <array>
#include <atomic>

#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

constexpr std::size_t kGroup = 200;
constexpr std::size_t kKeptOf = 4;  // one object in so many

// What one thread leaves to the next.
struct Parcel {
  std::array<void*, kGroup / kKeptOf> objects;
};

using Mailbox = std::atomic<Parcel*>;

// Oldest first, and with them the parcel.
void free_in_order(Parcel* parcel) {
  if (parcel == nullptr) return;
  for (void* object : parcel->objects) release(object);
  std::free(parcel);
}

// Allocates a group, frees most of it youngest first, and returns the rest in a parcel.
Parcel* group(Random& random, const SizeMix& size) {
  std::array<void*, kGroup> objects;
  for (void*& object : objects) object = allocate(size(random));
  auto* const parcel = static_cast<Parcel*>(std::malloc(sizeof(Parcel)));
  if (parcel == nullptr) fail("no memory");
  for (std::size_t i = kGroup; i > 0; --i) {
    if (i % kKeptOf == 0) {
      parcel->objects[i / kKeptOf - 1] = objects[i - 1];
    } else {
      release(objects[i - 1]);
    }
  }
  return parcel;
}

}  // namespace

Result sh6(const Parameters& parameters) {
  const std::uint64_t groups = parameters.operations / kGroup + 1;
  const SizeMix size(parameters.smallest, parameters.largest);
  Random random(seed_of(parameters, 0));
  const Clock clock;
  std::vector<Parcel*> kept(parameters.live / kGroup * kKeptOf + 1);
  std::size_t count = 0;
  for (std::uint64_t i = 0; i < groups; ++i) {
    kept[count++] = group(random, size);
    if (count < kept.size()) continue;
    for (Parcel* parcel : kept) free_in_order(parcel);
    count = 0;
  }
  for (std::size_t i = 0; i < count; ++i) free_in_order(kept[i]);
  return {groups * kGroup, clock.seconds()};
}

Result sh8(const Parameters& parameters) {
  const unsigned threads = parameters.threads;
  const std::uint64_t groups = parameters.operations / kGroup / threads + 1;
  const std::size_t slots = std::max<std::size_t>(1, parameters.live / kGroup * kKeptOf / threads);
  const SizeMix size(parameters.smallest, parameters.largest);
  std::vector<Mailbox> mailboxes(slots * threads);
  const Clock clock;
  on_threads(threads, [&](unsigned index) {
    Random random(seed_of(parameters, index));
    Mailbox* const own = &mailboxes[slots * index];
    Mailbox* const next = &mailboxes[slots * ((index + 1) % threads)];
    for (std::uint64_t i = 0; i < groups; ++i) {
      // Parcels that nobody fetched go to the one who replaces them.
      free_in_order(next[i % slots].exchange(group(random, size), std::memory_order_acq_rel));
      free_in_order(own[random.below(slots)].exchange(nullptr, std::memory_order_acq_rel));
    }
  });
  const Result result{groups * kGroup * threads, clock.seconds()};
  for (Mailbox& mailbox : mailboxes) free_in_order(mailbox.load(std::memory_order_relaxed));
  return result;
}

}  // namespace polder::bench
