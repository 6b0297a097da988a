// Names for the place of a page that is not resident. Values only: nothing here owns a slot or a reference.
//
//   31      28 27                                     0
//   +---------+---------------------------------------+
//   |  file   |  slot (4 KiB each, 1 TiB per file)    |
//   +---------+---------------------------------------+
//   file 0…14 a swap file; file 15 the pattern table, whose entries are the slots; all ones: no place
#pragma once

#include <cstdint>

#include "base/check.h"

namespace polder {

class Location {
 public:
  static constexpr unsigned kSlotBits = 28;
  static constexpr unsigned kPatternFile = 15;
  static constexpr unsigned kFileCount = kPatternFile;
  static constexpr std::uint32_t kSlotLimit = std::uint32_t{1} << kSlotBits;

  constexpr Location() = default;  // none
  static constexpr Location none() { return {}; }
  static constexpr Location from_bits(std::uint32_t bits) { return Location(bits); }
  static constexpr Location in_file(unsigned file, std::uint32_t slot) {
    POLDER_DCHECK(file < kFileCount && slot < kSlotLimit, "location out of range", file, slot);
    return Location((file << kSlotBits) | slot);
  }
  static constexpr Location in_patterns(std::uint32_t entry) {
    POLDER_DCHECK(entry < kSlotLimit - 1, "pattern entry out of range", entry);
    return Location((kPatternFile << kSlotBits) | entry);
  }

  constexpr std::uint32_t bits() const { return bits_; }
  constexpr bool is_none() const { return bits_ == kNone; }
  constexpr bool is_pattern() const { return file() == kPatternFile && !is_none(); }
  constexpr bool is_swap() const { return file() < kFileCount; }
  constexpr unsigned file() const { return bits_ >> kSlotBits; }
  constexpr std::uint32_t slot() const { return bits_ & (kSlotLimit - 1); }

  constexpr bool operator==(const Location&) const = default;

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  constexpr explicit Location(std::uint32_t bits) : bits_(bits) {}

  std::uint32_t bits_ = kNone;
};

// Consecutive slots of one swap file, taken together so that they can be written with one transfer.
struct SlotRun {
  unsigned file = 0;
  std::uint32_t first = 0;
  unsigned count = 0;  // 0: no slots were to be had

  constexpr Location operator[](unsigned index) const {
    POLDER_DCHECK(index < count, "slot outside its run", index, count);
    return Location::in_file(file, first + index);
  }
};

}  // namespace polder
