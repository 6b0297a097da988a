#include "store/swap_file.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "os/file.h"
#include "store/location.h"

namespace polder {
namespace {

// How far the file grows at once, in slots: 16 and 64 MiB.
constexpr std::uint32_t kSmallestStep = 4096;
constexpr std::uint32_t kLargestStep = 16384;

}  // namespace

Errno SwapFile::create(int directory, std::uint64_t bytes, Budget& budget) {
  POLDER_CHECK(role_ == Role::none, "swap file exists");
  constexpr std::uint64_t kClusterBytes = std::uint64_t{SlotTable::kClusterSlots} * kPageSize;
  constexpr std::uint64_t kMostClusters = Location::kSlotLimit / SlotTable::kClusterSlots;
  const bool fitted = bytes == 0;
  if (fitted) {
    const Result<std::uint64_t> space = os::free_space(directory);
    if (!space.ok()) return space.error;
    bytes = space.value - space.value / 20;
    if (bytes < kClusterBytes) return Errno(ENOSPC);
  }
  if (bytes < kClusterBytes) return Errno(EINVAL);
  std::uint64_t clusters = std::min(bytes / kClusterBytes, kMostClusters);

  const Result<os::TemporaryFile> made = os::open_temporary(directory);
  if (!made.ok()) return made.error;
  Errno error = slots_.create(static_cast<std::uint32_t>(clusters * SlotTable::kClusterSlots), budget);
  // A large disk under a small RLIMIT_AS: nobody asked for all of it.
  while (error == Errno(ENOMEM) && fitted && clusters > 1) {
    clusters /= 2;
    error = slots_.create(static_cast<std::uint32_t>(clusters * SlotTable::kClusterSlots), budget);
  }
  if (!error.ok()) {
    os::close(made.value.fd);
    return error;
  }
  descriptor_ = made.value.fd;
  direct_ = made.value.direct;
  punchable_ = true;
  allocatable_ = true;
  backed_end_ = 0;
  role_ = Role::own;
  return kOk;
}

void SwapFile::close() {
  if (descriptor_ >= 0) os::close(descriptor_);
  if (lifeline_ >= 0) os::close(lifeline_);
  forget();
}

void SwapFile::become_foreign(int descriptor, int lifeline) {
  POLDER_CHECK(role_ != Role::none, "no such file to inherit", descriptor);
  POLDER_CHECK(descriptor >= 0 && lifeline >= 0, "inherited descriptor is missing", descriptor, lifeline);
  slots_.forget_holds();
  descriptor_ = descriptor;
  lifeline_ = lifeline;
  role_ = Role::foreign;
}

void SwapFile::forget() {
  slots_.destroy();
  descriptor_ = -1;
  lifeline_ = -1;
  direct_ = false;
  role_ = Role::none;
}

SlotTable::Span SwapFile::allocate(std::uint32_t wanted) {
  const SlotTable::Span span = slots_.allocate(wanted);
  const std::uint32_t end = span.first + span.count;
  if (end <= backed_end_ || !allocatable_) return span;
  // An eighth of what there is: small swap files stay small.
  const std::uint32_t step = std::clamp(backed_end_ / 8, kSmallestStep, kLargestStep);
  const std::uint32_t target = std::min(std::max(end, backed_end_ + step), slots_.capacity());
  const Errno error =
      os::allocate_blocks(descriptor_, offset(backed_end_), std::uint64_t{target - backed_end_} * kPageSize);
  // A full disk is met again, and reported, by the write itself.
  if (error.ok()) backed_end_ = target;
  if (error == Errno(EOPNOTSUPP) || error == Errno(ENOSYS)) allocatable_ = false;
  return span;
}

unsigned SwapFile::punch_free(unsigned count) {
  POLDER_CHECK(role_ == Role::own, "only the owner drops blocks");
  // Sections looked at per section wanted: keeps a call short where nearly everything is in use.
  constexpr unsigned kLookPerSection = 256;
  if (slots_.supply() == SlotTable::Supply::rewritable) return 0;  // the disk is full: we need the blocks we have
  unsigned punched = 0;
  while (punched < count) {
    const SlotTable::Span span = slots_.take_unused_section(kLookPerSection);
    if (span.count == 0) break;
    ++punched;
    if (!punchable_) continue;
    // A refusal costs disk blocks, nothing else: the slots stay usable either way.
    const Errno error = os::punch_hole(descriptor_, offset(span.first), std::uint64_t{span.count} * kPageSize);
    if (!error.ok()) punchable_ = false;
  }
  return punched;
}

}  // namespace polder
