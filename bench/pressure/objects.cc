// A table of objects of one size. A visit checks an object; one in five then writes all of it anew. Threads have objects of
// their own: what lies on a page may be several threads', an object never is.
#include <optional>

#include "pressure/contents.h"
#include "pressure/order.h"
#include "pressure/record.h"
#include "pressure/workload.h"

namespace polder::bench {
namespace {

constexpr std::uint64_t kVisitsPerWrite = 5;
// Of the phases: how many hot sets there are, how much of the visits goes into the present one, and how long it is hot.
constexpr std::uint64_t kHotSets = 8;
constexpr std::uint64_t kVisitsPerColdOne = 10;
constexpr std::uint64_t kPhaseNs = 2'000'000'000;
constexpr std::uint64_t kVisitsPerRecordedPhase = 100'000;

class Table {
 public:
  explicit Table(const Settings& settings)
      : size_(settings.object_size),
        count_(settings.bytes / (size_ + sizeof(unsigned char*) + 1)),
        objects_(static_cast<unsigned char**>(allocate(count_ * sizeof(unsigned char*)))),
        versions_(static_cast<unsigned char*>(allocate(count_))) {
    if (count_ < std::uint64_t{kHotSets} * settings.threads) fail("too little data for so many threads");
    for (std::uint64_t i = 0; i < count_; ++i) {
      objects_[i] = static_cast<unsigned char*>(allocate(size_));
      versions_[i] = 0;
      write_contents(objects_[i], 0, size_, i, 0);
    }
  }
  std::uint64_t count() const { return count_; }

  void visit(std::uint64_t index, Random& random) {
    PageRecord::touch(objects_ + index, sizeof objects_[0]);
    PageRecord::touch(versions_ + index, 1);
    check_contents(objects_[index], 0, size_, index, versions_[index]);
    if (random.one_in(kVisitsPerWrite)) write_contents(objects_[index], 0, size_, index, ++versions_[index]);
  }

 private:
  std::size_t size_;
  std::uint64_t count_;
  unsigned char** objects_;
  unsigned char* versions_;
};

enum class Pick : unsigned char { uniform, zipf, sequential, phases };

class Visitor final : public Worker {
 public:
  Visitor(Table& table, Pick pick, const Zipf* zipf, const Settings& settings, unsigned index)
      : table_(table),
        pick_(pick),
        zipf_(zipf),
        random_(random_for(settings, index)),
        first_(index),
        step_(settings.threads),
        share_(table.count() / settings.threads),
        // The hottest ranks lie far apart.
        scattered_(share_, settings.seed + index) {
    if (pick == Pick::sequential) {
      // A stretch of its own.
      first_ = index * share_;
      step_ = 1;
    }
  }

  Progress operate() override {
    table_.visit(first_ + next() * step_, random_);
    return Progress::more;
  }

 private:
  std::uint64_t next() {
    switch (pick_) {
      case Pick::uniform:
        return random_.below(share_);
      case Pick::zipf:
        return scattered_(zipf_->rank(random_));
      case Pick::sequential:
        return position_ = position_ + 1 < share_ ? position_ + 1 : 0;
      case Pick::phases:
        break;
    }
    if (random_.one_in(kVisitsPerColdOne)) return random_.below(share_);
    const std::uint64_t length = share_ / kHotSets;
    return phase() % kHotSets * length + random_.below(length);
  }

  // By the clock, so that who is slow has no more time; by the number of visits where the clock does not count.
  std::uint64_t phase() {
    if (PageRecord::on()) return visits_++ / kVisitsPerRecordedPhase;
    const std::uint64_t now = now_ns();
    if (begin_ns_ == 0) begin_ns_ = now;
    return (now - begin_ns_) / kPhaseNs;
  }

  Table& table_;
  Pick pick_;
  const Zipf* zipf_;
  std::uint64_t visits_ = 0;
  std::uint64_t begin_ns_ = 0;
  Random random_;
  std::uint64_t first_;
  std::uint64_t step_;
  std::uint64_t share_;
  std::uint64_t position_ = 0;
  Permutation scattered_;
};

class Objects final : public Workload {
 public:
  Objects(const Settings& settings, Pick pick) : settings_(settings), pick_(pick), table_(settings) {
    if (pick == Pick::zipf) zipf_.emplace(table_.count() / settings.threads, 0.99);
  }

  std::unique_ptr<Worker> worker(unsigned index) override {
    return std::make_unique<Visitor>(table_, pick_, zipf_ ? &*zipf_ : nullptr, settings_, index);
  }

 private:
  Settings settings_;
  Pick pick_;
  Table table_;
  std::optional<Zipf> zipf_;
};

}  // namespace

std::unique_ptr<Workload> make_uniform(const Settings& settings) {
  return std::make_unique<Objects>(settings, Pick::uniform);
}
std::unique_ptr<Workload> make_zipf(const Settings& settings) {
  return std::make_unique<Objects>(settings, Pick::zipf);
}
std::unique_ptr<Workload> make_sequential(const Settings& settings) {
  return std::make_unique<Objects>(settings, Pick::sequential);
}
std::unique_ptr<Workload> make_phases(const Settings& settings) {
  return std::make_unique<Objects>(settings, Pick::phases);
}

}  // namespace polder::bench
