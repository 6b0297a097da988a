// Bounds that the command and the preload library agree on.
#pragma once

#include <cstdint>

namespace polder::runtime {

// Smallest --memory: below it staging, metadata and the pages that one instruction can need at once leave too little.
inline constexpr std::uint64_t kMinimumLimit = std::uint64_t{8} << 20;

// Smallest --swap-size and smallest free space in --swap-dir: four clusters of 64 KiB.
inline constexpr std::uint64_t kMinimumSwap = std::uint64_t{4} * (64U << 10);

// --watermark-scale: so many 10,000ths at least, and at most.
inline constexpr std::uint64_t kLeastWatermarkScale = 1;
inline constexpr std::uint64_t kMostWatermarkScale = 1000;

}  // namespace polder::runtime
