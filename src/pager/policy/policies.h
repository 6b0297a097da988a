// All policies there are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>

#include "pager/policy/clock.h"
#include "pager/policy/fifo.h"
#include "pager/policy/kind.h"
#include "pager/policy/multi_gen_lru.h"
#include "pager/policy/policy.h"
#include "pager/policy/two_list_lru.h"

namespace polder {

// Room for any of them, and one in it.
class AnyPolicy {
 public:
  AnyPolicy(PolicyKind kind, MetadataArray<AgeingNode>& nodes) : policy_(make(kind, nodes)) {}
  ~AnyPolicy() { std::destroy_at(&policy_); }
  AnyPolicy(const AnyPolicy&) = delete;
  AnyPolicy& operator=(const AnyPolicy&) = delete;

  Policy& operator*() { return policy_; }

 private:
  Policy& make(PolicyKind kind, MetadataArray<AgeingNode>& nodes) {
    switch (kind) {
      case PolicyKind::fifo:
        return *new (storage_) Fifo(nodes);
      case PolicyKind::clock:
        return *new (storage_) Clock(nodes, Clock::Kind::plain);
      case PolicyKind::enhanced_clock:
        return *new (storage_) Clock(nodes, Clock::Kind::enhanced);
      case PolicyKind::multi_gen_lru:
        return *new (storage_) MultiGenLru(nodes);
      case PolicyKind::two_list_lru:
        break;
    }
    return *new (storage_) TwoListLru(nodes);
  }

  static constexpr std::size_t kSize = std::max({sizeof(Fifo), sizeof(Clock), sizeof(TwoListLru), sizeof(MultiGenLru)});
  alignas(std::max_align_t) unsigned char storage_[kSize];
  Policy& policy_;
};

}  // namespace polder
