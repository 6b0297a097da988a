#include "vm/arena.h"

#include <algorithm>
#include <cerrno>
#include <new>

#include "base/check.h"
#include "os/mapping.h"

namespace polder {
namespace {

std::size_t bitmap_bytes(std::size_t arena_size) {
  const std::size_t words = (arena_size / Arena::kChunkSize + 63) / 64;
  return (words * sizeof(std::uint64_t) + kPageSize - 1) & ~(kPageSize - 1);
}

constexpr std::uint32_t kPagesPerChunk = Arena::kChunkSize / kPageSize;

constexpr std::size_t first_chunk_of(Run run) { return run.first.value / kPagesPerChunk; }
constexpr std::size_t chunks_end_of(Run run) { return (run.end().value + kPagesPerChunk - 1) / kPagesPerChunk; }

}  // namespace

Errno Arena::reserve(std::size_t wanted, std::size_t smallest, Layout (*layout_for)(std::size_t)) {
  POLDER_CHECK(wanted % kChunkSize == 0 && smallest % kChunkSize == 0, "arena in whole chunks", wanted, smallest);
  POLDER_CHECK(smallest > 0 && smallest <= wanted, "arena bounds", wanted, smallest);
  const std::size_t address_space = os::address_space_limit();
  Errno error(ENOMEM);
  for (std::size_t size = wanted;; size = std::max(size / 2, smallest)) {
    const Layout layout = layout_for(size);
    const std::size_t before = bitmap_bytes(size) + layout.metadata + layout.staging + 3 * kGuardSize;
    const std::size_t lead = (before + kBlockSize - 1) & ~(kBlockSize - 1);
    const std::size_t whole = lead + size + kGuardSize;
    // Half of a limited address space is left to the program: its stacks, libraries and files live there too.
    if (address_space / 2 >= whole || (size == smallest && address_space > whole)) {
      const Result<char*> range = os::reserve(whole, kBlockSize, os::Placement::random);
      error = range.error;
      if (range.ok()) {
        reservation_ = range.value;
        reserved_ = whole;
        base_ = range.value + lead;
        size_ = size;
        layout_ = layout;
        error = os::commit(bitmap(), bitmap_bytes(size));
        if (error.ok()) {
          committed_ = reinterpret_cast<std::atomic<std::uint64_t>*>(bitmap());
          return kOk;
        }
        os::release(reservation_, reserved_);
        reservation_ = nullptr;
      }
    }
    if (size == smallest) return error.ok() ? Errno(ENOMEM) : error;
  }
}

Arena::~Arena() {
  if (reservation_ != nullptr) os::release(reservation_, reserved_);
}

char* Arena::metadata() const { return bitmap() + bitmap_bytes(size_); }

char* Arena::staging() const { return metadata() + layout_.metadata + kGuardSize; }

std::atomic<std::uint64_t>& Arena::committed_word(std::size_t chunk) const {
  return chunk < 64 ? first_committed_ : committed_[chunk / 64];
}

// Acquire pairs with the release in commit(): whoever sees the bit may touch the chunk.
bool Arena::is_committed(std::size_t chunk) const {
  return (committed_word(chunk).load(std::memory_order_acquire) >> (chunk % 64) & 1) != 0;
}

std::size_t Arena::uncommitted_chunks(Run run) const {
  const std::size_t end = chunks_end_of(run);
  std::size_t number = 0;
  for (std::size_t chunk = first_chunk_of(run); chunk < end; ++chunk) number += !is_committed(chunk);
  return number;
}

Result<std::size_t> Arena::commit(Run run) {
  POLDER_DCHECK(run.pages.value != 0 && run.end().value <= pages().value, "run inside the arena", run.first.value,
                run.pages.value);
  const std::size_t end = chunks_end_of(run);
  std::size_t fresh = 0;
  for (std::size_t chunk = first_chunk_of(run); chunk < end;) {
    if (is_committed(chunk)) {
      ++chunk;
      continue;
    }
    std::size_t last = chunk + 1;
    while (last < end && !is_committed(last)) ++last;
    // Two threads may commit one chunk at once: the call is idempotent and only one of them finds the bit clear.
    const Errno error = os::commit(base_ + chunk * kChunkSize, (last - chunk) * kChunkSize);
    if (!error.ok()) return {fresh, error};
    for (; chunk < last; ++chunk) {
      const std::uint64_t bit = std::uint64_t{1} << (chunk % 64);
      if ((committed_word(chunk).fetch_or(bit, std::memory_order_release) & bit) == 0) ++fresh;
    }
  }
  return success(fresh);
}

}  // namespace polder
