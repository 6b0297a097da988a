// Growth by realloc: one array that becomes very large and small again, and many vectors that grow at once.
#include <algorithm>
#include <memory>

#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

constexpr std::size_t kWord = sizeof(std::uint64_t);

// The word that a step of the growth leaves behind, and where: in the middle of what it added.
std::size_t place_of(std::size_t size) { return size / 4 * 3; }
std::uint64_t word_of(std::size_t size) { return ~static_cast<std::uint64_t>(size) * 0x9E37'79B9U; }

void check_steps(const char* array, std::size_t smallest, std::size_t size) {
  for (std::size_t step = smallest; step <= size; step *= 2) {
    if (load_word(array + place_of(step)) != word_of(step)) fail("realloc lost a word of an array");
  }
}

}  // namespace

// An operation is the whole way from smallest to largest by doubling, and back by halving. Three words of each step are
// written, not every page: what is measured is the cost of the address range, not that of the kernel's zeroed pages.
Result realloc_array(const Parameters& parameters) {
  const std::uint64_t operations = parameters.operations + (parameters.operations == 0 ? 1 : 0);
  const Clock clock;
  for (std::uint64_t i = 0; i < operations; ++i) {
    std::size_t size = parameters.smallest;
    auto* array = static_cast<char*>(allocate(size));
    store_word(array + place_of(size), word_of(size));
    while (size < parameters.largest) {
      size *= 2;
      array = static_cast<char*>(resize(array, size));
      store_word(array + place_of(size), word_of(size));
      check_steps(array, parameters.smallest, size);
    }
    while (size > parameters.smallest) {
      size /= 2;
      array = static_cast<char*>(resize(array, size));
      check_steps(array, parameters.smallest, size);
    }
    release(array);
  }
  return {operations, clock.seconds()};
}

// Each operation makes a random vector half as long again and writes what was added; one that reached its length is
// checked word by word, freed, and begins anew. Lengths are drawn from the mix of sizes.
Result realloc_vectors(const Parameters& parameters) {
  struct Vector {
    std::uint64_t* words = nullptr;
    std::size_t count = 0;
    std::size_t limit = 0;
  };
  constexpr std::size_t kFirst = 4;  // words
  const SizeMix length(parameters.smallest, parameters.largest);
  const std::unique_ptr<Vector[]> vectors(new Vector[parameters.live]);
  Random random(seed_of(parameters, 0));

  const auto drop = [](Vector& vector) {
    for (std::size_t i = 1; i < vector.count; ++i) {
      if (vector.words[i] != vector.limit + i) fail("realloc lost a word of a vector");
    }
    std::free(vector.words);
    vector = {};
  };
  const auto grow = [&](Vector& vector, std::size_t count) {
    auto* const words = static_cast<std::uint64_t*>(std::realloc(vector.words, count * kWord));
    if (words == nullptr) fail("no memory");
    for (std::size_t i = vector.count; i < count; ++i) words[i] = vector.limit + i;
    vector.words = words;
    vector.count = count;
  };

  const std::uint64_t operations = parameters.operations + 1;
  const Clock clock;
  for (std::uint64_t i = 0; i < operations; ++i) {
    Vector& vector = vectors[random.below(parameters.live)];
    if (vector.words != nullptr && vector.count >= vector.limit) drop(vector);
    if (vector.words == nullptr) {
      vector.limit = std::max(length(random) / kWord, kFirst);
      grow(vector, kFirst);
    } else {
      grow(vector, vector.count + vector.count / 2);
    }
  }
  const Result result{operations, clock.seconds()};
  for (std::size_t i = 0; i < parameters.live; ++i) drop(vectors[i]);
  return result;
}

}  // namespace polder::bench
