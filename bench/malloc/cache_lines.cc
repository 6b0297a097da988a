// False sharing: threads write often to small objects of their own. An allocator that gives two threads parts of one
// cache line (actively), or lets a thread keep reusing the part that it got from another (passively), makes them slow.
#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

constexpr unsigned kWrites = 100'000;  // to an object, between its malloc and its free

// Increments every byte in turn; then each must have the value that it was counted to.
void scribble(void* object, std::size_t size) {
  std::memset(object, 0, size);
  volatile unsigned char* const bytes = static_cast<unsigned char*>(object);
  const auto rounds = static_cast<unsigned>(kWrites / size);
  for (unsigned round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(bytes[i] + 1U);
  }
  for (std::size_t i = 0; i < size; ++i) {
    if (bytes[i] != static_cast<unsigned char>(rounds)) fail("a byte of an object was changed by somebody else");
  }
}

// An operation is one object: malloc, kWrites writes, free. Each thread begins by freeing its part of `given`.
Result write_objects(const Parameters& parameters, const std::vector<void*>& given) {
  const std::uint64_t objects = parameters.operations / parameters.threads + 1;
  const Clock clock;
  on_threads(parameters.threads, [&](unsigned index) {
    if (!given.empty()) release(given[index]);
    for (std::uint64_t i = 0; i < objects; ++i) {
      void* const object = allocate(parameters.smallest);
      scribble(object, parameters.smallest);
      mark(object, parameters.smallest);
      release(object);
    }
  });
  return {objects * parameters.threads, clock.seconds()};
}

}  // namespace

Result cache_thrash(const Parameters& parameters) { return write_objects(parameters, {}); }

// The first objects come from one thread, neighbours in one cache line.
Result cache_scratch(const Parameters& parameters) {
  std::vector<void*> given(parameters.threads);
  for (void*& object : given) object = allocate(parameters.smallest);
  return write_objects(parameters, given);
}

}  // namespace polder::bench
