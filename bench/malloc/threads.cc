// Threads as such: what the first malloc of a thread and the thread's end cost, and objects that two threads exchange.
#include <sched.h>

#include <atomic>
#include <memory>

#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

// Two threads wait for each other: busily for a short time, then leaving the processor to whoever needs it.
class Meeting {
 public:
  void arrive() {
    const unsigned meeting = done_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == 1) {
      arrived_.store(0, std::memory_order_relaxed);
      done_.store(meeting + 1, std::memory_order_release);
      return;
    }
    for (unsigned tries = 0; done_.load(std::memory_order_acquire) == meeting; ++tries) {
      if (tries > 2000) std::this_thread::yield();
    }
  }

 private:
  std::atomic<unsigned> arrived_{0};
  std::atomic<unsigned> done_{0};
};

}  // namespace

// One after the other: each starts, allocates once, frees and ends. All on one processor: on two the clock would tell how
// long an idle one takes to wake up, with any malloc (measured: a loop of threads that do nothing takes 43 µs each, of
// threads that spin for 14 µs takes 27).
Result thread_start(const Parameters& parameters) {
  const std::uint64_t operations = parameters.operations + 1;
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(static_cast<unsigned>(sched_getcpu()), &here);
  if (sched_setaffinity(0, sizeof here, &here) != 0) fail("cannot stay on one processor");
  const Clock clock;
  for (std::uint64_t i = 0; i < operations; ++i) {
    std::thread thread([&] { release(allocate(parameters.smallest)); });
    thread.join();
  }
  return {operations, clock.seconds()};
}

// Each of two threads allocates a batch, they swap, each frees what the other allocated. An operation is a malloc and a
// free.
Result exchange(const Parameters& parameters) {
  const std::size_t share = parameters.live / 2;
  const std::uint64_t rounds = parameters.operations / parameters.live + 1;
  const std::unique_ptr<void* []> tables[2] {
    std::unique_ptr<void*[]>(new void*[share]), std::unique_ptr<void*[]>(new void*[share])
  };
  const SizeMix size(parameters.smallest, parameters.largest);
  Meeting meeting;
  const Clock clock;
  on_threads(2, [&](unsigned index) {
    Random random(seed_of(parameters, index));
    for (std::uint64_t round = 0; round < rounds; ++round) {
      for (std::size_t i = 0; i < share; ++i) tables[index][i] = allocate(size(random));
      meeting.arrive();
      for (std::size_t i = 0; i < share; ++i) release(tables[1 - index][i]);
      meeting.arrive();
    }
  });
  return {rounds * share * 2, clock.seconds()};
}

}  // namespace polder::bench
