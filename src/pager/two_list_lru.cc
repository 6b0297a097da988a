#include "pager/two_list_lru.h"

#include "base/check.h"

namespace polder {

void TwoListLru::push_head_locked(std::uint32_t folio, ListName name) {
  Node& node = nodes_[folio];
  List& list = lists_[name];
  node.list = name;
  node.previous = 0;
  node.next = list.head;
  if (list.head != 0) {
    nodes_[list.head - 1].previous = folio + 1;
  } else {
    list.tail = folio + 1;
  }
  list.head = folio + 1;
  ++list.length;
}

void TwoListLru::remove_locked(std::uint32_t folio) {
  Node& node = nodes_[folio];
  List& list = lists_[node.list];
  POLDER_DCHECK(node.list != kNone && list.length > 0, "folio is on a list", folio, node.list);
  if (node.previous != 0) {
    nodes_[node.previous - 1].next = node.next;
  } else {
    list.head = node.next;
  }
  if (node.next != 0) {
    nodes_[node.next - 1].previous = node.previous;
  } else {
    list.tail = node.previous;
  }
  node.list = kNone;
  --list.length;
}

bool TwoListLru::refaulted_early_locked(const Node& node) const {
  if (node.evicted_at == 0) return false;
  const std::uint32_t distance = clock_ - node.evicted_at;
  return distance <= lists_[kActive].length;
}

void TwoListLru::arrived(FolioId id, Arrival how) {
  const os::MutexLock lock(mutex_);
  Node& node = nodes_[id.value];
  ListName target = kInactive;
  switch (how) {
    case Arrival::staged:
    case Arrival::refused:
      target = kActive;
      break;
    case Arrival::stored:
      if (refaulted_early_locked(node)) target = kActive;
      break;
    case Arrival::converted:
    case Arrival::zero:
    case Arrival::ahead:
      break;
  }
  if (node.list == kNone) {
    push_head_locked(id.value, target);
  } else if (node.list != target || how == Arrival::staged || how == Arrival::stored) {
    // Never demote by an arrival; a page that was asked for moves its folio to the head again.
    if (node.list == kActive) target = kActive;
    if (how == Arrival::ahead) return;
    remove_locked(id.value);
    push_head_locked(id.value, target);
  }
}

void TwoListLru::balance_locked() {
  List& active = lists_[kActive];
  while (active.length > 2 * lists_[kInactive].length) {
    const std::uint32_t folio = active.tail - 1;
    remove_locked(folio);
    push_head_locked(folio, kInactive);
  }
}

std::size_t TwoListLru::choose(std::span<FolioId> victims) {
  const os::MutexLock lock(mutex_);
  std::size_t chosen = 0;
  while (chosen < victims.size()) {
    balance_locked();
    const std::uint32_t tail = lists_[kInactive].tail;
    if (tail == 0) break;
    remove_locked(tail - 1);
    nodes_[tail - 1].evicted_at = clock_;
    clock_ = clock_ == ~std::uint32_t{0} ? 1 : clock_ + 1;
    victims[chosen++] = FolioId{tail - 1};
  }
  return chosen;
}

FolioCount TwoListLru::aged() const {
  const os::MutexLock lock(mutex_);
  return {std::uint64_t{lists_[kInactive].length} + lists_[kActive].length};
}

FolioCount TwoListLru::active() const {
  const os::MutexLock lock(mutex_);
  return {lists_[kActive].length};
}

void TwoListLru::reset_in_child(FolioId end) {
  mutex_.abandon_in_child();
  for (std::uint32_t folio = 0; folio < end.value; ++folio) nodes_[folio] = Node{};
  for (List& list : lists_) list = List{};
  clock_ = 1;
}

}  // namespace polder
