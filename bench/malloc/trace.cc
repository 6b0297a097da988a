// Replays a trace of malloc, realloc and free. The events are read piece by piece through one static buffer: they add
// nothing to the memory that is measured.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>

#include "malloc/object.h"
#include "malloc/trace_format.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

constexpr std::size_t kPiece = 8192;
constexpr std::uint64_t kSynthetic = 4'000'000;  // events

class Reader {
 public:
  Reader(int descriptor, std::uint64_t seed, std::uint64_t events) : descriptor_(descriptor) {
    if (descriptor_ < 0) {
      descriptor_ = memfd_create("trace", MFD_CLOEXEC);
      if (descriptor_ < 0) fail("cannot make a file for the trace");
      write_synthetic_trace(descriptor_, events, seed);
    }
    rewind();
    if (read_fully(&header_, sizeof header_) != sizeof header_ || header_.magic != TraceHeader::kMagic ||
        header_.events == 0 || header_.slots > (std::uint64_t{1} << TraceEvent::kKindShift)) {
      fail("not a trace");
    }
  }
  ~Reader() { close(descriptor_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  const TraceHeader& header() const { return header_; }

  template <typename Visit>
  void each_event(const Visit& visit) {
    static std::array<TraceEvent, kPiece> piece;
    if (lseek(descriptor_, sizeof header_, SEEK_SET) < 0) fail("cannot read the trace");
    for (std::uint64_t left = header_.events; left > 0;) {
      const std::size_t count = std::min<std::uint64_t>(left, kPiece);
      if (read_fully(piece.data(), count * sizeof(TraceEvent)) != count * sizeof(TraceEvent)) {
        fail("the trace ends early");
      }
      for (std::size_t i = 0; i < count; ++i) visit(piece[i]);
      left -= count;
    }
  }

 private:
  void rewind() {
    if (lseek(descriptor_, 0, SEEK_SET) < 0) fail("cannot read the trace");
  }
  std::size_t read_fully(void* to, std::size_t size) {
    std::size_t done = 0;
    while (done < size) {
      const ssize_t count = read(descriptor_, static_cast<char*>(to) + done, size - done);
      if (count <= 0) break;
      done += static_cast<std::size_t>(count);
    }
    return done;
  }

  int descriptor_;
  TraceHeader header_;
};

void replay(TraceEvent event, void** slots, std::uint64_t count) {
  const std::uint32_t index = event.slot();
  if (index >= count) fail("the trace names a slot that it does not have");
  void*& object = slots[index];
  const bool fits = event.size >= kSmallestObject && event.size <= (1U << 28);
  switch (event.kind()) {
    case TraceKind::malloc:
      if (object != nullptr || !fits) fail("the trace has a wrong malloc");
      object = allocate(event.size);
      return;
    case TraceKind::realloc:
      if (object == nullptr || !fits) fail("the trace has a wrong realloc");
      object = resize(object, event.size);
      return;
    case TraceKind::free:
      if (object == nullptr) fail("the trace frees what it does not have");
      release(object);
      object = nullptr;
      return;
  }
  fail("the trace has an unknown event");
}

}  // namespace

Result trace(const Parameters& parameters) {
  int descriptor = -1;
  if (parameters.trace != nullptr) {
    descriptor = open(parameters.trace, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail("cannot open the trace");
  }
  Reader reader(descriptor, parameters.seed, std::clamp<std::uint64_t>(parameters.operations, 1, kSynthetic));
  const std::uint64_t count = reader.header().slots;
  const std::uint64_t rounds = std::max<std::uint64_t>(1, parameters.operations / reader.header().events);
  const std::unique_ptr<void*[]> slots(new void* [count] {});
  const Clock clock;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    reader.each_event([&](TraceEvent event) { replay(event, slots.get(), count); });
  }
  const Result result{rounds * reader.header().events, clock.seconds()};
  for (std::uint64_t i = 0; i < count; ++i) {
    if (slots[i] != nullptr) release(slots[i]);
  }
  return result;
}

}  // namespace polder::bench
