#include "runtime/foreign.h"

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "base/fatal.h"
#include "base/units.h"
#include "os/mapping.h"
#include "runtime/dynamic_linker.h"

namespace polder::runtime {
namespace {

using Free = void (*)(void*);
using Realloc = void* (*)(void*, std::size_t);
using UsableSize = std::size_t (*)(void*);

// Atomic: any thread may find them, and all find the same. Release of `searched` pairs with acquire in find_c_library().
struct CLibrary {
  std::atomic<bool> searched{false};
  std::atomic<Free> free{nullptr};
  std::atomic<Realloc> realloc{nullptr};
  std::atomic<UsableSize> usable_size{nullptr};
};
constinit CLibrary c_library;

// Immutable after the library's start.
constinit std::uintptr_t first_break = UINTPTR_MAX;

constexpr std::size_t kPreviousInUse = 1;
constexpr std::size_t kMapped = 2;
constexpr std::size_t kNonMainArena = 4;
constexpr std::size_t kFlags = kPreviousInUse | kMapped | kNonMainArena;
constexpr std::size_t kUnit = 16;  // MALLOC_ALIGNMENT, and that of sizes
constexpr std::size_t kSmallestChunk = 32;
constexpr std::size_t kLargestHeap = std::size_t{64} << 20;  // HEAP_MAX_SIZE without huge pages

// struct malloc_chunk, which begins 16 bytes before the pointer that the program has.
struct Chunk {
  std::size_t previous_size;
  std::size_t size_and_flags;

  std::size_t size() const { return size_and_flags & ~kFlags; }
  std::size_t flags() const { return size_and_flags & kFlags; }
};

// struct _heap_info, at each boundary of kLargestHeap below which an arena has chunks.
struct HeapHeader {
  std::uintptr_t arena;
  std::uintptr_t previous;
  std::size_t size;
  std::size_t accessible;
};

// Null where the words cannot be read.
template <typename T>
const T* at(std::uintptr_t address) {
  static_assert(sizeof(T) <= 2 * kUnit && alignof(T) <= kUnit);
  const std::uintptr_t last = address + sizeof(T) - 8;
  const bool readable = address % kUnit == 0 && last >= address && os::is_readable(reinterpret_cast<void*>(address)) &&
                        os::is_readable(reinterpret_cast<void*>(last));
  return readable ? reinterpret_cast<const T*>(address) : nullptr;
}

bool is_mapped_block(std::uintptr_t start, const Chunk& chunk) {
  const std::uintptr_t mapping = start - chunk.previous_size;
  const std::size_t length = chunk.previous_size + chunk.size();
  if (mapping > start || length < chunk.size() || mapping + length < mapping) return false;
  return mapping % kPageSize == 0 && length % kPageSize == 0 && at<Chunk>(mapping + length - sizeof(Chunk)) != nullptr;
}

bool neighbour_knows(std::uintptr_t start, const Chunk& chunk) {
  const Chunk* const next = at<Chunk>(start + chunk.size());
  return next != nullptr && (next->size_and_flags & kPreviousInUse) != 0 && next->size() >= kUnit;
}

bool is_arena_block(std::uintptr_t start, const Chunk& chunk) {
  const std::uintptr_t base = start & ~(kLargestHeap - 1);
  const HeapHeader* const heap = at<HeapHeader>(base);
  if (heap == nullptr || heap->size == 0 || heap->size > kLargestHeap || heap->size % kPageSize != 0) return false;
  if (heap->accessible < heap->size || heap->accessible > kLargestHeap) return false;
  // The arena's own state follows the header of its first heap.
  const std::uintptr_t first = heap->arena & ~(kLargestHeap - 1);
  if (heap->arena - first < sizeof(HeapHeader) || heap->arena - first >= kPageSize) return false;
  if ((first == base) != (heap->previous == 0) || heap->previous % kLargestHeap != 0) return false;
  return chunk.size() <= heap->size - (start - base) && start - base < heap->size && neighbour_knows(start, chunk);
}

bool is_main_block(std::uintptr_t start, const Chunk& chunk) {
  const std::uintptr_t end = os::program_break();
  return start >= first_break && start < end && chunk.size() <= end - start && neighbour_knows(start, chunk);
}

bool is_c_library_block(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  if (address % kUnit != 0 || address < kPageSize || object_of(pointer) != nullptr) return false;
  const std::uintptr_t start = address - sizeof(Chunk);
  const Chunk* const chunk = at<Chunk>(start);
  if (chunk == nullptr || chunk->size() % kUnit != 0 || chunk->size() < kSmallestChunk) return false;
  if (chunk->size() > PTRDIFF_MAX) return false;
  if ((chunk->flags() & kMapped) != 0) return chunk->flags() == kMapped && is_mapped_block(start, *chunk);
  if ((chunk->flags() & kNonMainArena) != 0) return is_arena_block(start, *chunk);
  return is_main_block(start, *chunk);
}

template <typename Function>
Function require(const char* operation, const void* pointer, const std::atomic<Function>& function) {
  if (!is_c_library_block(pointer)) report_foreign_pointer(operation, pointer);
  find_c_library();
  const Function found = function.load(std::memory_order_relaxed);
  if (found == nullptr) report_foreign_pointer(operation, pointer);
  return found;
}

template <typename Function>
void find(std::atomic<Function>& function, const char* symbol) {
  function.store(reinterpret_cast<Function>(find_in_c_library(symbol)), std::memory_order_relaxed);
}

}  // namespace

void note_program_break() {
  if (const std::uintptr_t end = os::program_break(); end != 0) first_break = end;
}

void find_c_library() {
  if (c_library.searched.load(std::memory_order_acquire)) return;
  const int saved = errno;
  find(c_library.free, "free");
  find(c_library.realloc, "realloc");
  find(c_library.usable_size, "malloc_usable_size");
  c_library.searched.store(true, std::memory_order_release);
  errno = saved;
}

void free_foreign(void* pointer) {
  const Free next = require("free", pointer, c_library.free);
  const int saved = errno;
  next(pointer);
  errno = saved;
}

void* reallocate_foreign(void* pointer, std::size_t size) {
  const Realloc next = require("realloc", pointer, c_library.realloc);
  const int saved = errno;
  void* const moved = next(pointer, size);
  errno = saved;
  return moved;
}

std::size_t usable_size_foreign(void* pointer) {
  return require("malloc_usable_size", pointer, c_library.usable_size)(pointer);
}

}  // namespace polder::runtime
