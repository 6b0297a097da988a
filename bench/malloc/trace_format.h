// A recorded or synthetic sequence of malloc, realloc and free: a TraceHeader, then `events` TraceEvents, in the byte
// order of the machine. An event names its object by slot, a number below `slots` that is used again once its object
// was freed; the first event of a slot is a malloc, the last a free.
#pragma once

#include <cstdint>

namespace polder::bench {

struct TraceHeader {
  static constexpr std::uint64_t kMagic = 0x3145'4341'5254'4450U;  // "PDTRACE1"

  std::uint64_t magic = kMagic;
  std::uint64_t events = 0;
  std::uint64_t slots = 0;
};

enum class TraceKind : std::uint32_t { malloc, realloc, free };

struct TraceEvent {
  static constexpr unsigned kKindShift = 30;

  std::uint32_t kind_and_slot = 0;
  std::uint32_t size = 0;  // of malloc and realloc, at least 8

  TraceKind kind() const { return static_cast<TraceKind>(kind_and_slot >> kKindShift); }
  std::uint32_t slot() const { return kind_and_slot & ((1U << kKindShift) - 1); }
  static TraceEvent make(TraceKind kind, std::uint32_t slot, std::uint32_t size) {
    return {(static_cast<std::uint32_t>(kind) << kKindShift) | slot, size};
  }
};
static_assert(sizeof(TraceEvent) == 8);

// Writes a synthetic trace of about that many events, which depends on nothing but its arguments. Leaves the offset of
// the descriptor at the end.
void write_synthetic_trace(int descriptor, std::uint64_t events, std::uint64_t seed);

}  // namespace polder::bench
