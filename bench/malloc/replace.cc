// Random replacement: of the live objects any is freed, and one of a new size takes its place. In three forms: from
// malloc, from posix_memalign and aligned_alloc, from calloc.
#include <memory>

#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

// Every thread has its part of the live objects. create(random, size) returns a marked object.
template <typename Create>
Result replace_with(const Parameters& parameters, const Create& create) {
  const std::size_t share = parameters.live / parameters.threads;
  const std::uint64_t operations = parameters.operations / parameters.threads + 1;
  const SizeMix size(parameters.smallest, parameters.largest);
  const std::unique_ptr<void*[]> table(new void*[share * parameters.threads]);
  std::vector<Random> randoms;
  for (unsigned i = 0; i < parameters.threads; ++i) randoms.emplace_back(seed_of(parameters, i));

  const auto fill = [&](unsigned index) {
    for (std::size_t i = 0; i < share; ++i) {
      table[share * index + i] = create(randoms[index], size(randoms[index]));
    }
  };
  const auto run = [&](unsigned index) {
    Random random = randoms[index];
    void** const slots = table.get() + share * index;
    for (std::uint64_t i = 0; i < operations; ++i) {
      void*& slot = slots[random.below(share)];
      release(slot);
      slot = create(random, size(random));
    }
  };
  Result result{operations * parameters.threads, 0};
  if (parameters.threads == 1) {
    fill(0);
    const Clock clock;
    run(0);
    result.seconds = clock.seconds();
  } else {
    const Clock clock;
    on_threads(parameters.threads, [&](unsigned index) {
      fill(index);
      run(index);
    });
    result.seconds = clock.seconds();
  }
  for (std::size_t i = 0; i < share * parameters.threads; ++i) release(table[i]);
  return result;
}

constexpr std::size_t kWord = sizeof(std::uint64_t);
constexpr std::size_t kStride = 256;  // bytes between looks at a large object

// Words of an object that is small, some of one that is large.
template <typename Visit>
void visit_words(char* object, std::size_t size, const Visit& visit) {
  const std::size_t step = size <= 4 * kStride ? kWord : kStride;
  for (std::size_t at = 0; at + kWord <= size; at += step) visit(object + at);
}

}  // namespace

Result replace(const Parameters& parameters) {
  return replace_with(parameters, [](Random&, std::size_t size) { return allocate(size); });
}

// Alignments of 16 bytes to a page, small ones more often.
Result aligned(const Parameters& parameters) {
  return replace_with(parameters, [](Random& random, std::size_t size) {
    const std::uint64_t number = random.next();
    const unsigned shift =
        number % 4 == 0 ? static_cast<unsigned>(number >> 8) % 9 : static_cast<unsigned>(number >> 8) % 4;
    const std::size_t alignment = std::size_t{16} << shift;
    void* object = nullptr;
    if ((number & (1U << 20)) != 0) {
      if (posix_memalign(&object, alignment, size) != 0) fail("no memory");
    } else {
      size = (size + alignment - 1) & ~(alignment - 1);
      object = std::aligned_alloc(alignment, size);
    }
    if ((reinterpret_cast<std::uintptr_t>(object) & (alignment - 1)) != 0) fail("an object is not aligned");
    return adopt(object, size);
  });
}

// Everything is written to before it is freed: it does not come back zeroed by itself.
Result zeroed(const Parameters& parameters) {
  return replace_with(parameters, [](Random&, std::size_t size) {
    auto* const object = static_cast<char*>(std::calloc(1, size));
    if (object == nullptr) fail("no memory");
    visit_words(object, size, [](char* word) {
      if (load_word(word) != 0) fail("calloc returned memory that is not zero");
      store_word(word, ~std::uint64_t{0});
    });
    if (object[size - 1] != 0 && size % kWord != 0) fail("calloc returned memory whose end is not zero");
    return adopt(object, size);
  });
}

}  // namespace polder::bench
