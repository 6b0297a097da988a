#include "store/store.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "os/file.h"
#include "vm/budget.h"

namespace polder {

Store::~Store() {
  for (SwapFile& file : files_) {
    for (SlotHold* hold = file.slots().holds(); hold != nullptr; hold = hold->next) {
      if (hold->lifeline >= 0) os::close(hold->lifeline);
    }
    file.close();
  }
  if (pending_lifeline_ >= 0) os::close(pending_lifeline_);
  if (directory_ >= 0) os::close(directory_);
}

Errno Store::open(const Options& options) {
  POLDER_CHECK(!is_open(), "store is open already");
  const Result<int> directory = os::open_directory(options.swap_directory);
  if (!directory.ok()) return directory.error;
  directory_ = directory.value;
  swap_bytes_ = options.swap_bytes;
  return kOk;
}

Result<std::uint64_t> Store::probe(const char* directory) {
  const Result<int> opened = os::open_directory(directory);
  if (!opened.ok()) return {0, opened.error};
  Result<std::uint64_t> space = os::free_space(opened.value);
  if (space.ok()) {
    const Result<os::TemporaryFile> made = os::open_temporary(opened.value);
    if (made.ok()) {
      os::close(made.value.fd);
    } else {
      space = {0, made.error};
    }
  }
  os::close(opened.value);
  return space;
}

// --- storing ---

std::optional<Location> Store::store_pattern(std::uint64_t word) {
  const std::optional<std::uint32_t> entry = patterns_.add(word);
  if (!entry) return std::nullopt;
  return Location::in_patterns(*entry);
}

Errno Store::make_own_file() {
  POLDER_CHECK(is_open(), "store is not open");
  close_unreferenced_files();
  for (unsigned i = 0; i < Location::kFileCount; ++i) {
    if (files_[i].role() != SwapFile::Role::none) continue;
    const Errno error = files_[i].create(directory_, swap_bytes_, budget_);
    if (error.ok()) {
      own_ = i;
      own_slots_.store(&files_[i].slots(), std::memory_order_release);
    }
    return error;
  }
  return Errno(EMFILE);
}

SlotRun Store::allocate_slots(unsigned wanted) {
  if (own_ == kNoFile) {
    if (creation_error_.ok()) creation_error_ = make_own_file();
    if (!creation_error_.ok()) {
      swap_error_ = creation_error_;
      full_.store(true, std::memory_order_relaxed);
      return {};
    }
  }
  SwapFile& file = files_[own_];
  SlotTable::Span span = file.allocate(wanted);
  if (span.count == 0 && release_finished_holds() != 0) span = file.allocate(wanted);
  swap_error_ = span.count != 0 ? kOk : Errno(ENOSPC);
  if (span.count == 0) used_when_full_.store(file.slots().used(), std::memory_order_relaxed);
  full_.store(span.count == 0, std::memory_order_relaxed);
  return {.file = own_, .first = span.first, .count = span.count};
}

void Store::abandon(const SlotRun& run, Errno why) {
  for (unsigned i = 0; i < run.count; ++i) abandon(run[i], why);
}

void Store::abandon(Location location, Errno why) {
  POLDER_CHECK(location.is_swap() && location.file() == own_, "only own slots are abandoned", location.bits());
  SlotTable& slots = files_[own_].slots();
  switch (why.code()) {
    case EIO:
      slots.mark_bad(location.slot());
      return;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      slots.set_supply(SlotTable::Supply::rewritable);
      break;
    default:
      break;
  }
  slots.release(location.slot());
}

void Store::commit(Location location, const PageHash& hash) {
  POLDER_CHECK(location.is_swap() && location.file() == own_, "only own slots are written", location.bits());
  files_[own_].slots().set_hash(location.slot(), hash);
}

void Store::retry_swap() {
  creation_error_ = kOk;
  if (own_ != kNoFile) {
    files_[own_].slots().set_supply(SlotTable::Supply::all);
    files_[own_].slots().forgive_bad();
  }
  full_.store(false, std::memory_order_relaxed);
}

unsigned Store::punch_free(unsigned sections) {
  close_unreferenced_files();
  return own_ == kNoFile ? 0 : files_[own_].punch_free(sections);
}

void Store::close_unreferenced_files() {
  for (SwapFile& file : files_) {
    if (file.role() == SwapFile::Role::foreign && file.slots().used() == 0) file.close();
  }
}

// --- any thread ---

SwapFile& Store::file(Location location) {
  POLDER_CHECK(location.is_swap(), "not a place in a swap file", location.bits());
  return files_[location.file()];
}

const SwapFile& Store::file(Location location) const {
  POLDER_CHECK(location.is_swap(), "not a place in a swap file", location.bits());
  return files_[location.file()];
}

void Store::reference(Location location) {
  if (location.is_pattern()) {
    patterns_.reference(location.slot());
  } else {
    file(location).slots().reference(location.slot());
  }
}

void Store::release(Location location) {
  if (location.is_pattern()) {
    patterns_.release(location.slot());
  } else {
    file(location).slots().release(location.slot());
  }
}

std::uint64_t Store::pattern(Location location) const {
  POLDER_CHECK(location.is_pattern(), "not a pattern", location.bits());
  return patterns_.word(location.slot());
}

PageHash Store::hash(Location location) const { return file(location).slots().hash(location.slot()); }

int Store::fd(Location location) const { return file(location).descriptor(); }

// --- reports ---

std::uint64_t Store::room() const {
  const SlotTable* const slots = own_slots_.load(std::memory_order_acquire);
  if (slots == nullptr) return full() ? 0 : UINT64_MAX;
  const std::uint64_t used = slots->used();
  // Since it was full only what came free is known to be room: the disk may have been full before the file was.
  const std::uint64_t most = full() ? used_when_full_.load(std::memory_order_relaxed) : slots->capacity();
  return most - std::min(used, most);
}

Store::Statistics Store::statistics() const {
  Statistics result;
  for (const SwapFile& file : files_) {
    const SlotTable& slots = file.slots();
    if (file.role() == SwapFile::Role::none) continue;
    ++result.files;
    result.used += slots.used();
    result.metadata += slots.charged();
    for (const SlotHold* hold = slots.holds(); hold != nullptr; hold = hold->next) ++result.holds;
  }
  if (own_ != kNoFile) {
    const SlotTable& slots = files_[own_].slots();
    result.capacity = slots.capacity();
    result.frontier = slots.frontier();
    result.bad = slots.bad();
    result.direct = files_[own_].is_direct();
    result.disk_full = slots.supply() == SlotTable::Supply::rewritable;
  }
  const PatternTable::Statistics patterns = patterns_.statistics();
  result.patterns = patterns.words;
  result.same_filled = patterns.references;
  return result;
}

void Store::verify() const {
  patterns_.verify();
  for (unsigned i = 0; i < Location::kFileCount; ++i) {
    const SwapFile& file = files_[i];
    POLDER_CHECK((file.role() == SwapFile::Role::own) == (i == own_), "own file", i, own_);
    if (file.role() != SwapFile::Role::none) file.slots().verify();
  }
}

}  // namespace polder
