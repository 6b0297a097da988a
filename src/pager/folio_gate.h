// Keeps fills out of a folio while its pages are being moved to staging.
//
// One UFFDIO_MOVE takes a whole stretch of a folio, and of its neighbours whose gates are closed too, holes included. A page
// that was filled into a hole meanwhile would be taken along unseen. The two sides therefore meet as in Dekker's algorithm, on sequentially consistent accesses:
//
//   evictor   close(folio), then read the words: leaves out every page that is `filling`
//   pager     make the page `filling`, then ask closed(folio): if closed, undo and try again later
//
// Either the evictor sees the fill or the pager sees the gate.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/units.h"
#include "vm/metadata.h"

namespace polder {

class FolioGate {
 public:
  // The owner keeps `flags` accessible for every folio it names.
  explicit FolioGate(MetadataArray<std::atomic<std::uint8_t>>& flags) : flags_(flags) {}

  void close(FolioId folio) {
    flags_[folio.value].store(1, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  // Release: whoever finds the gate open sees the words as the evictor left them.
  void open(FolioId folio) { flags_[folio.value].store(0, std::memory_order_release); }

  bool closed(FolioId folio) const {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return flags_[folio.value].load(std::memory_order_seq_cst) != 0;
  }

 private:
  MetadataArray<std::atomic<std::uint8_t>>& flags_;
};

}  // namespace polder
