#include "heap/slab.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace polder {

void Slab::initialise(SizeClass its_class, GranuleId first_granule, Hardening hardening) {
  next = nullptr;
  previous = nullptr;
  first = first_granule;
  size_class = its_class;
  capacity = static_cast<std::uint16_t>(slab_shape(its_class, hardening).capacity);
  free = capacity;
  word_count = static_cast<std::uint8_t>(words_for(its_class, hardening));
  first_word = 0;
  list = kNoList;
  taken_end = 0;
  shard.store(0, std::memory_order_relaxed);
  for (unsigned word = 0; word < word_count; ++word) words()[word] = ~std::uint64_t{0};
  if (capacity % 64 != 0) words()[word_count - 1U] = (std::uint64_t{1} << (capacity % 64)) - 1;
}

unsigned Slab::take(const Arena& arena, void** objects, unsigned wanted) {
  char* const base = arena.address(first);
  const std::size_t size = info_of(size_class).size;
  unsigned taken = 0;
  unsigned word = first_word;
  while (taken < wanted && word < word_count) {
    std::uint64_t bits = words()[word];
    while (bits != 0 && taken < wanted) {
      const auto bit = static_cast<unsigned>(std::countr_zero(bits));
      bits &= bits - 1;
      objects[taken++] = base + (word * 64U + bit) * size;
      taken_end = std::max(taken_end, static_cast<std::uint16_t>(word * 64U + bit + 1));
    }
    words()[word] = bits;
    if (bits == 0) ++word;
  }
  first_word = static_cast<std::uint8_t>(word);
  POLDER_CHECK(taken <= free, "slab's count disagrees with its bitmap", taken, free, this);
  free = static_cast<std::uint16_t>(free - taken);
  return taken;
}

unsigned Slab::take_at_random(const Arena& arena, void** objects, unsigned wanted, Random& random) {
  char* const base = arena.address(first);
  const std::size_t size = info_of(size_class).size;
  unsigned taken = 0;
  taken_end = capacity;
  for (; taken < wanted && free != 0; --free) {
    unsigned nth = random.below(free);
    unsigned word = first_word;
    for (unsigned here; nth >= (here = static_cast<unsigned>(std::popcount(words()[word]))); ++word) nth -= here;
    std::uint64_t bits = words()[word];
    for (; nth != 0; --nth) bits &= bits - 1;
    const auto bit = static_cast<unsigned>(std::countr_zero(bits));
    words()[word] &= ~(std::uint64_t{1} << bit);
    objects[taken++] = base + (word * 64U + bit) * size;
  }
  return taken;
}

std::uint64_t Slab::give(unsigned word, std::uint64_t bits) {
  const std::uint64_t already = words()[word] & bits;
  if (already != 0) return already;
  words()[word] |= bits;
  free = static_cast<std::uint16_t>(free + std::popcount(bits));
  POLDER_CHECK(free <= capacity, "more objects freed than the slab has", free, capacity, this);
  if (word < first_word) first_word = static_cast<std::uint8_t>(word);
  return 0;
}

void Slab::verify(Hardening hardening) const {
  unsigned population = 0;
  for (unsigned word = 0; word < word_count; ++word) {
    population += static_cast<unsigned>(std::popcount(words()[word]));
    POLDER_CHECK(word >= first_word || words()[word] == 0, "free objects before the slab's first word", word,
                 first_word, this);
  }
  POLDER_CHECK(population == free, "slab's count disagrees with its bitmap", population, free, this);
  POLDER_CHECK(capacity == slab_shape(size_class, hardening).capacity, "slab's capacity is not its class's", capacity,
               this);
  POLDER_CHECK(word_count == words_for(size_class, hardening), "slab's bitmap is not its class's", word_count, this);
  for (unsigned word = 0; hardening == Hardening::on && word < word_count; ++word) {
    POLDER_CHECK((words()[word] & quarantined()[word]) == 0, "object in quarantine is free", word, this);
  }
  if (capacity % 64 != 0) {
    POLDER_CHECK(words()[word_count - 1U] >> (capacity % 64) == 0, "slab has objects beyond its capacity", this);
  }
}

}  // namespace polder
