// Lists of folios, and what a policy notes of each: the nodes are the policies' whole memory. Not locked.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "base/units.h"
#include "vm/metadata.h"

namespace polder {

// A bit for each page of a folio.
using PageMask = std::uint16_t;
inline constexpr PageMask kAllPages = 0xFFFF;
static_assert(kPagesPerFolio == 16);

// Of `count` pages from that one on, in one folio.
constexpr PageMask mask_of(PageId first, std::uint32_t count) {
  return static_cast<PageMask>(((std::uint32_t{1} << count) - 1) << (first.value % kPagesPerFolio));
}

// All zero: on no list, never evicted.
struct AgeingNode {
  std::uint32_t next;         // folio id + 1 towards the tail, 0 ends
  std::uint32_t previous;     // folio id + 1 towards the head
  std::uint32_t evicted_at;   // value of the policy's clock when last chosen; 0 never
  std::uint32_t generations;  // two bits a page
  PageMask pages;             // policies' own
  PageMask warm;
  std::uint8_t list;  // 0 none
  std::uint8_t referenced;
};

class FolioLists {
 public:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  static constexpr unsigned kListCount = 4;  // numbered from 1

  // The owner keeps `nodes` accessible for every folio it names.
  explicit FolioLists(MetadataArray<AgeingNode>& nodes) : nodes_(nodes) {}

  AgeingNode& operator[](std::uint32_t folio) const { return nodes_[folio]; }
  bool listed(std::uint32_t folio) const { return nodes_[folio].list != 0; }

  // Precondition: on no list.
  void push_head(std::uint32_t folio, unsigned list) {
    AgeingNode& node = nodes_[folio];
    POLDER_DCHECK(node.list == 0, "folio is on one list", folio, node.list);
    List& ends = lists_[list];
    node.list = static_cast<std::uint8_t>(list);
    node.previous = 0;
    node.next = ends.head;
    if (ends.head != 0) {
      nodes_[ends.head - 1].previous = folio + 1;
    } else {
      ends.tail = folio + 1;
    }
    ends.head = folio + 1;
    ++ends.length;
  }
  // Precondition: on a list.
  void remove(std::uint32_t folio) {
    AgeingNode& node = nodes_[folio];
    List& ends = lists_[node.list];
    POLDER_DCHECK(node.list != 0 && ends.length > 0, "folio is on a list", folio, node.list);
    if (node.previous != 0) {
      nodes_[node.previous - 1].next = node.next;
    } else {
      ends.head = node.next;
    }
    if (node.next != 0) {
      nodes_[node.next - 1].previous = node.previous;
    } else {
      ends.tail = node.previous;
    }
    node.list = 0;
    --ends.length;
  }
  void move_to_head(std::uint32_t folio, unsigned list) {
    remove(folio);
    push_head(folio, list);
  }

  // kNone when the list is empty; of the folio before a listed one, when that is the head.
  std::uint32_t tail(unsigned list) const { return lists_[list].tail - 1; }
  std::uint32_t before(std::uint32_t folio) const { return nodes_[folio].previous - 1; }

  std::uint32_t length(unsigned list) const { return lists_[list].length; }
  std::uint64_t total() const {
    std::uint64_t total = 0;
    for (const List& list : lists_) total += list.length;
    return total;
  }

  // As if no folio before `end` had ever been named.
  void clear(std::uint32_t end) {
    for (std::uint32_t folio = 0; folio < end; ++folio) nodes_[folio] = AgeingNode{};
    for (List& list : lists_) list = List{};
  }

 private:
  struct List {
    std::uint32_t head = 0;  // folio id + 1
    std::uint32_t tail = 0;
    std::uint32_t length = 0;
  };

  MetadataArray<AgeingNode>& nodes_;
  List lists_[kListCount + 1];
};

}  // namespace polder
