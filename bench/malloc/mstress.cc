// Threads with short and long lived objects of many sizes, some of which change hands through a shared array; threads
// end and others come, and now and then everything that was handed over is dropped. Every word of every object is
// written and checked.
#include <atomic>

#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

constexpr unsigned kGenerations = 50;
constexpr std::size_t kTransfers = 1000;
constexpr std::size_t kWord = sizeof(std::uint64_t);

using Transfer = std::atomic<std::uint64_t*>;

// Mostly small; one in a hundred sixteen times as large, one in ten thousand a thousand times.
std::uint64_t* create(Random& random, const SizeMix& size) {
  std::size_t words = size(random) / kWord;
  const std::uint64_t luck = random.below(10'000);
  if (luck == 0) {
    words *= 1024;
  } else if (luck < 100) {
    words *= 16;
  }
  auto* const object = static_cast<std::uint64_t*>(allocate(words * kWord));
  // Between head and tail: words that follow from the head.
  for (std::size_t i = 1; i + 1 < words; ++i) object[i] = object[0] + i;
  return object;
}

void destroy(std::uint64_t* object) {
  if (object == nullptr) return;
  const std::size_t words = check(object) / kWord;
  for (std::size_t i = 1; i + 1 < words; ++i) {
    if (object[i] != object[0] + i) fail("a word of an object was changed by somebody else");
  }
  release(object);
}

class Worker {
 public:
  Worker(Random& random, const SizeMix& size, std::vector<Transfer>& transfers, std::size_t live)
      : random_(random), size_(size), transfers_(transfers), short_lived_(live / 2 + 1), long_lived_(live / 2 + 1) {}

  ~Worker() {
    for (std::uint64_t* object : short_lived_) destroy(object);
    for (std::uint64_t* object : long_lived_) destroy(object);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // One malloc, and later one free.
  void operate() {
    std::uint64_t* object = create(random_, size_);
    const std::uint64_t luck = random_.below(100);
    if (luck < 10) {
      object = transfers_[random_.below(transfers_.size())].exchange(object, std::memory_order_acq_rel);
    }
    if (luck < 25) {
      place(long_lived_[random_.below(long_lived_.size())], object);
    } else {
      // A window that moves: what is replaced is as old as the window is long.
      place(short_lived_[next_++ % short_lived_.size()], object);
    }
  }

 private:
  static void place(std::uint64_t*& slot, std::uint64_t* object) {
    destroy(slot);
    slot = object;
  }

  Random& random_;
  const SizeMix& size_;
  std::vector<Transfer>& transfers_;
  std::vector<std::uint64_t*> short_lived_;
  std::vector<std::uint64_t*> long_lived_;
  std::size_t next_ = 0;
};

}  // namespace

Result mstress(const Parameters& parameters) {
  const std::uint64_t operations = parameters.operations / kGenerations / parameters.threads + 1;
  const SizeMix size(parameters.smallest, parameters.largest);
  std::vector<Transfer> transfers(kTransfers);
  const Clock clock;
  for (unsigned generation = 0; generation < kGenerations; ++generation) {
    on_threads(parameters.threads, [&](unsigned index) {
      Random random(seed_of(parameters, std::uint64_t{generation} * parameters.threads + index));
      Worker worker(random, size, transfers, parameters.live / parameters.threads);
      for (std::uint64_t i = 0; i < operations; ++i) worker.operate();
    });
    if (generation % 4 == 3 || generation + 1 == kGenerations) {
      for (Transfer& transfer : transfers) destroy(transfer.exchange(nullptr, std::memory_order_relaxed));
    }
  }
  return {operations * kGenerations * parameters.threads, clock.seconds()};
}

}  // namespace polder::bench
