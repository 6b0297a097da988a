// A slab: a run cut into objects of one size class. The header lies in the metadata pool, never in the run, so that
// neither allocating nor freeing touches the objects. Guarded by the mutex of its class's central list; the fields that
// say "immutable" may be read by whoever holds one of its objects.
//
//   header (32 bytes) | free bitmap, one bit per object, 1 = free
//
//   invariants  free == population of the bitmap; bits from `capacity` on are 0; words before `first_word` are 0;
//               on a list of the central exactly while free > 0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "heap/size_class.h"
#include "vm/arena.h"

namespace polder {

struct alignas(8) Slab {
  Slab* next;
  Slab* previous;
  GranuleId first;          // immutable
  std::uint16_t capacity;   // immutable
  std::uint16_t free;       // objects in the bitmap
  SizeClass size_class;     // immutable
  std::uint8_t word_count;  // immutable
  std::uint8_t first_word;  // where to look for a free object first
  std::uint8_t list;        // the central's list it is on
  std::uint16_t taken_end;  // objects from here on were never taken

  static constexpr std::uint8_t kNoList = 255;

  static constexpr unsigned words_for(SizeClass size_class) { return (info_of(size_class).capacity + 63) / 64; }
  static constexpr std::size_t header_bytes(SizeClass size_class) {
    return sizeof(Slab) + words_for(size_class) * sizeof(std::uint64_t);
  }

  // Fills in a zeroed header: every object is free, the slab is on no list.
  void initialise(SizeClass its_class, GranuleId first_granule);

  std::uint64_t* words() { return reinterpret_cast<std::uint64_t*>(this + 1); }
  const std::uint64_t* words() const { return reinterpret_cast<const std::uint64_t*>(this + 1); }

  // Takes up to `wanted` free objects in ascending order of address; the number taken.
  unsigned take(const Arena& arena, void** objects, unsigned wanted);
  // Makes objects free whose bits are given; the bits among them that were free already (then nothing changed).
  std::uint64_t give(unsigned word, std::uint64_t bits);

  void verify() const;
};
static_assert(sizeof(Slab) == 32);

}  // namespace polder
