// A memory of so many pages under one of the pager's policies, as the pager works with it: victims wait in staging, where an
// access takes them back, before they are stored.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "base/units.h"
#include "pager/policy/policies.h"
#include "vm/metadata.h"

namespace polder::bench {

struct Counts {
  std::uint64_t misses = 0;       // pages that were read from the store
  std::uint64_t soft_faults = 0;  // taken back from staging
  std::uint64_t stored = 0;       // pages that left the memory
};

class Memory {
 public:
  // In pages. Staging takes about `staging` of the capacity, in clusters as the pager's.
  Memory(PolicyKind policy, std::uint32_t folios, std::uint32_t capacity, std::uint32_t staging);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void access(PageId page);
  const Counts& counts() const { return counts_; }

 private:
  enum class State : unsigned char { untouched, resident, staged, stored };
  struct Page {
    std::uint32_t staged_as = 0;  // which of its entries in the queue counts
    State state = State::untouched;
  };
  struct Staged {
    PageId page;
    std::uint32_t number;
  };
  using Cluster = std::vector<Staged>;

  void make_room();
  bool stage_cluster();
  bool store_oldest();

  char* metadata_;
  std::size_t metadata_size_;
  MetadataArray<AgeingNode> nodes_;
  AnyPolicy policy_;
  std::uint32_t capacity_;
  std::size_t clusters_;  // that may be staged
  std::vector<Page> pages_;
  std::deque<Cluster> queue_;
  std::uint32_t charged_ = 0;  // resident or staged
  std::uint32_t stagings_ = 0;
  Counts counts_;
};

}  // namespace polder::bench
