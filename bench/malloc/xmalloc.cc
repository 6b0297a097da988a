// Asymmetric threads: half of them only allocate, the other half only free. Objects travel in batches over one bounded
// queue, so that what is alive has a limit and the slower side sets the pace.
#include <array>
#include <condition_variable>
#include <mutex>

#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

constexpr std::size_t kBatch = 256;

struct Batch {
  std::array<void*, kBatch> objects;
};

class Queue {
 public:
  explicit Queue(std::size_t capacity) : batches_(capacity) {}

  void put(Batch* batch) {
    {
      std::unique_lock lock(mutex_);
      not_full_.wait(lock, [&] { return count_ < batches_.size(); });
      batches_[(first_ + count_++) % batches_.size()] = batch;
    }
    not_empty_.notify_one();
  }
  // nullptr once the queue is closed and empty.
  Batch* take() {
    Batch* batch = nullptr;
    {
      std::unique_lock lock(mutex_);
      not_empty_.wait(lock, [&] { return count_ > 0 || closed_; });
      if (count_ == 0) return nullptr;
      batch = batches_[first_];
      first_ = (first_ + 1) % batches_.size();
      --count_;
    }
    not_full_.notify_one();
    return batch;
  }
  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    not_empty_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable not_full_;
  std::condition_variable not_empty_;
  std::vector<Batch*> batches_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  bool closed_ = false;
};

}  // namespace

Result xmalloc(const Parameters& parameters) {
  const unsigned producers = parameters.threads > 1 ? parameters.threads / 2 : 1;
  const std::uint64_t batches = parameters.operations / kBatch / producers + 1;
  const SizeMix size(parameters.smallest, parameters.largest);
  Queue queue(parameters.live / kBatch + 1);

  const Clock clock;
  std::thread consumers([&] {
    on_threads(producers, [&](unsigned) {
      while (Batch* const batch = queue.take()) {
        for (void* object : batch->objects) release(object);
        std::free(batch);
      }
    });
  });
  on_threads(producers, [&](unsigned index) {
    Random random(seed_of(parameters, index));
    for (std::uint64_t i = 0; i < batches; ++i) {
      auto* const batch = static_cast<Batch*>(std::malloc(sizeof(Batch)));
      if (batch == nullptr) fail("no memory");
      for (void*& object : batch->objects) object = allocate(size(random));
      queue.put(batch);
    }
  });
  queue.close();
  consumers.join();
  return {batches * producers * kBatch, clock.seconds()};
}

}  // namespace polder::bench
