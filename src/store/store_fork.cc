// What fork needs of the store: the parent's holds, the child's inheritance.
#include <cerrno>

#include "base/check.h"
#include "os/file.h"
#include "store/store.h"

namespace polder {

Errno Store::hold_for_child() {
  POLDER_CHECK(pending_hold_ == nullptr && pending_lifeline_ < 0, "a fork is under way already");
  inherited_files_ = 0;
  for (unsigned i = 0; i < Location::kFileCount; ++i) {
    if (files_[i].role() != SwapFile::Role::none && files_[i].slots().used() != 0) inherited_files_ |= 1U << i;
  }
  if (own_ == kNoFile || (inherited_files_ >> own_ & 1) == 0) return kOk;
  const Result<os::Pipe> pipe = os::make_pipe();
  if (!pipe.ok()) return pipe.error;
  const Result<SlotHold*> hold = files_[own_].slots().hold_used();
  if (!hold.ok()) {
    os::close(pipe.value.read_end);
    os::close(pipe.value.write_end);
    return hold.error;
  }
  hold.value->lifeline = pipe.value.read_end;
  pending_hold_ = hold.value;
  pending_lifeline_ = pipe.value.write_end;
  return kOk;
}

unsigned Store::inherited_descriptors(int* fds) const {
  if (!is_open()) return 0;
  unsigned count = 0;
  fds[count++] = directory_;
  for (unsigned i = 0; i < Location::kFileCount; ++i) {
    if ((inherited_files_ >> i & 1) == 0) continue;
    fds[count++] = files_[i].descriptor();
    fds[count++] = i == own_ ? pending_lifeline_ : files_[i].lifeline();
  }
  return count;
}

void Store::end_fork(ForkOutcome outcome) {
  inherited_files_ = 0;
  if (pending_hold_ == nullptr) return;
  os::close(pending_lifeline_);
  if (outcome == ForkOutcome::failed) {
    os::close(pending_hold_->lifeline);
    files_[own_].slots().release_hold(pending_hold_);
  }
  pending_hold_ = nullptr;
  pending_lifeline_ = -1;
}

unsigned Store::release_finished_holds() {
  if (own_ == kNoFile) return 0;
  SlotTable& slots = files_[own_].slots();
  unsigned released = 0;
  for (SlotHold* hold = slots.holds(); hold != nullptr;) {
    SlotHold* const next = hold->next;
    if (hold != pending_hold_ && os::peer_closed(hold->lifeline)) {
      os::close(hold->lifeline);
      slots.release_hold(hold);
      ++released;
    }
    hold = next;
  }
  return released;
}

void Store::become_child(const int* fds, unsigned count) {
  if (!is_open()) {
    POLDER_CHECK(count == 0, "descriptors for a store that was never open", count);
    return;
  }
  unsigned used = 0;
  POLDER_CHECK(count != 0, "child without directory");
  directory_ = fds[used++];
  for (unsigned i = 0; i < Location::kFileCount; ++i) {
    if ((inherited_files_ >> i & 1) == 0) {
      files_[i].forget();
      continue;
    }
    POLDER_CHECK(used + 2 <= count, "child without its parent's file", i, count);
    files_[i].become_foreign(fds[used], fds[used + 1]);
    used += 2;
  }
  POLDER_CHECK(used == count, "descriptors left over", used, count);
  own_ = kNoFile;
  own_slots_.store(nullptr, std::memory_order_relaxed);
  swap_error_ = kOk;
  creation_error_ = kOk;
  pending_hold_ = nullptr;
  pending_lifeline_ = -1;
  inherited_files_ = 0;
  full_.store(false, std::memory_order_relaxed);
}

void Store::begin_recount() {
  patterns_.clear_counts();
  for (SwapFile& file : files_) {
    if (file.role() != SwapFile::Role::none) file.slots().clear_counts();
  }
}

void Store::recount(Location location) {
  if (location.is_pattern()) {
    patterns_.recount(location.slot());
  } else {
    file(location).slots().recount(location.slot());
  }
}

}  // namespace polder
