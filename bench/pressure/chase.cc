// Pointer chase: a ring of nodes in random order for each thread. An operation checks a node and follows its pointer: the
// next one is known only when this one has been read.
#include <vector>

#include "pressure/contents.h"
#include "pressure/order.h"
#include "pressure/record.h"
#include "pressure/workload.h"

namespace polder::bench {
namespace {

struct Node {
  Node* next;
  std::uint64_t place;  // in the ring
};

class Chaser final : public Worker {
 public:
  Chaser(const Node* node, std::size_t size, std::uint64_t first, std::uint64_t count)
      : node_(node), size_(size), first_(first), count_(count) {}

  Progress operate() override {
    if (node_->place != place_) fail_at("a node is not the next of its ring", first_ + place_, 0);
    check_contents(node_, sizeof(Node), size_, first_ + place_, 0);
    node_ = node_->next;
    place_ = place_ + 1 < count_ ? place_ + 1 : 0;
    return Progress::more;
  }

 private:
  const Node* node_;
  std::size_t size_;
  std::uint64_t first_;
  std::uint64_t count_;
  std::uint64_t place_ = 0;
};

class Chase final : public Workload {
 public:
  explicit Chase(const Settings& settings)
      : size_(settings.object_size), count_(settings.bytes / size_ / settings.threads), rings_(settings.threads) {
    if (count_ == 0) fail("too little data for so many threads");
    // Needed only until the rings are closed: no part of the data.
    std::vector<Node*> nodes(count_);
    for (unsigned index = 0; index < settings.threads; ++index) {
      const Permutation place_of(count_, settings.seed + index);
      for (std::uint64_t i = 0; i < count_; ++i) {
        auto* const node = static_cast<Node*>(allocate(size_));
        node->place = place_of(i);
        nodes[node->place] = node;
        write_contents(node, sizeof(Node), size_, index * count_ + node->place, 0);
      }
      for (std::uint64_t i = 0; i < count_; ++i) {  // in the order of their addresses: most are not resident any more
        const std::uint64_t place = place_of(i);
        PageRecord::touch(nodes[place], sizeof(Node));
        nodes[place]->next = nodes[place + 1 < count_ ? place + 1 : 0];
      }
      rings_[index] = nodes[0];
    }
  }
  std::unique_ptr<Worker> worker(unsigned index) override {
    return std::make_unique<Chaser>(rings_[index], size_, index * count_, count_);
  }

 private:
  std::size_t size_;
  std::uint64_t count_;  // of a ring
  std::vector<Node*> rings_;
};

}  // namespace

std::unique_ptr<Workload> make_chase(const Settings& settings) { return std::make_unique<Chase>(settings); }

}  // namespace polder::bench
