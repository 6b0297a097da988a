// A slab: a run cut into objects of one size class. The header lies in the metadata pool, never in the run, so that
// neither allocating nor freeing touches the objects. Guarded by the mutex of the central list that it belongs to; the
// fields that say "immutable" may be read by whoever holds one of its objects, and so may its shard, to find that list.
//
//   header (32 bytes) | free bitmap, one bit per object, 1 = free | hardened: the same, 1 = in quarantine
//
//   invariants  free == population of the bitmap; bits from `capacity` on are 0; words before `first_word` are 0;
//               on a list of the central exactly while free > 0; what is in quarantine is not free
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/random.h"
#include "base/units.h"
#include "heap/hardening.h"
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
  // Whose it is of the class's central lists. Atomic: read without the mutex, which is of one of them; whoever has taken
  // that must look again.
  std::atomic<std::uint8_t> shard;

  static constexpr std::uint8_t kNoList = 255;

  static constexpr unsigned words_for(SizeClass size_class, Hardening hardening) {
    return (slab_shape(size_class, hardening).capacity + 63) / 64;
  }
  static constexpr std::size_t header_bytes(SizeClass size_class, Hardening hardening) {
    const unsigned bitmaps = hardening == Hardening::on ? 2 : 1;
    return sizeof(Slab) + bitmaps * words_for(size_class, hardening) * sizeof(std::uint64_t);
  }

  // Fills in a zeroed header: every object is free, the slab is on no list.
  void initialise(SizeClass its_class, GranuleId first_granule, Hardening hardening);

  std::uint64_t* words() { return reinterpret_cast<std::uint64_t*>(this + 1); }
  const std::uint64_t* words() const { return reinterpret_cast<const std::uint64_t*>(this + 1); }

  // Takes up to `wanted` free objects in ascending order of address; the number taken.
  unsigned take(const Arena& arena, void** objects, unsigned wanted);
  // The same, at random among all that are free.
  unsigned take_at_random(const Arena& arena, void** objects, unsigned wanted, Random& random);
  // Makes objects free whose bits are given; the bits among them that were free already (then nothing changed).
  std::uint64_t give(unsigned word, std::uint64_t bits);

  // Of a hardened heap's slab, by the object's index, which is below the capacity.
  bool is_in_use(unsigned index) const {
    return ((words()[index / 64] | quarantined()[index / 64]) >> (index % 64) & 1) == 0;
  }
  void begin_quarantine(unsigned index) { quarantined()[index / 64] |= std::uint64_t{1} << (index % 64); }
  void end_quarantine(unsigned index) { quarantined()[index / 64] &= ~(std::uint64_t{1} << (index % 64)); }

  void verify(Hardening hardening) const;

 private:
  std::uint64_t* quarantined() { return words() + word_count; }
  const std::uint64_t* quarantined() const { return words() + word_count; }
};
static_assert(sizeof(Slab) == 32);

}  // namespace polder
