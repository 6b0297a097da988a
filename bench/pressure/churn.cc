// malloc and free: an operation checks a random object, frees it, and puts another of another size into its place. Sizes
// are half to one and a half of the given one.
#include <cstdlib>

#include "pressure/contents.h"
#include "pressure/workload.h"

namespace polder::bench {
namespace {

struct Slot {
  void* object;
  std::uint32_t size;
  std::uint32_t version;
};

class Churner final : public Worker {
 public:
  Churner(Slot* slots, std::uint64_t count, std::uint64_t first, const Settings& settings, Random random)
      : slots_(slots), count_(count), first_(first), object_size_(settings.object_size), random_(random) {}

  Progress operate() override {
    const std::uint64_t index = random_.below(count_);
    Slot& slot = slots_[index];
    PageRecord::touch(&slot, sizeof slot);
    check_contents(slot.object, 0, slot.size, first_ + index, slot.version);
    std::free(slot.object);
    fill(index, slot.version + 1);
    return Progress::more;
  }

  void fill(std::uint64_t index, std::uint32_t version) {
    const auto size = static_cast<std::uint32_t>(object_size_ / 2 + random_.below(object_size_ + 1));
    slots_[index] = {allocate(size), size, version};
    write_contents(slots_[index].object, 0, size, first_ + index, version);
  }

 private:
  Slot* slots_;
  std::uint64_t count_;
  std::uint64_t first_;
  std::size_t object_size_;
  Random random_;
};

class Churn final : public Workload {
 public:
  explicit Churn(const Settings& settings)
      : settings_(settings),
        share_(settings.bytes / (settings.object_size + sizeof(Slot)) / settings.threads),
        slots_(static_cast<Slot*>(allocate(share_ * settings.threads * sizeof(Slot)))) {
    if (share_ == 0) fail("too little data for so many threads");
    for (unsigned index = 0; index < settings.threads; ++index) {
      Churner churner = make(index, settings.threads + index);
      for (std::uint64_t i = 0; i < share_; ++i) churner.fill(i, 0);
    }
  }
  std::unique_ptr<Worker> worker(unsigned index) override { return std::make_unique<Churner>(make(index, index)); }

 private:
  Churner make(unsigned index, unsigned generator) {
    return {slots_ + index * share_, share_, index * share_, settings_, random_for(settings_, generator)};
  }

  Settings settings_;
  std::uint64_t share_;
  Slot* slots_;
};

}  // namespace

std::unique_ptr<Workload> make_churn(const Settings& settings) { return std::make_unique<Churn>(settings); }

}  // namespace polder::bench
