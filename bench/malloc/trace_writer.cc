// The synthetic trace: what programs have been seen to do, in proportions that are this file's own. Most objects die
// young, some live longer, few very long; sizes are small and come in favourites; one object in thirty is a buffer that
// doubles several times before it dies.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "malloc/object.h"
#include "malloc/trace_format.h"

namespace polder::bench {
namespace {

constexpr std::uint32_t kWheel = 1U << 19;  // the longest life, in allocations
constexpr std::uint32_t kNone = ~0U;

struct Slot {
  std::uint32_t next = kNone;  // in a list of the wheel, or of free slots
  std::uint32_t size = 0;
  std::uint32_t doublings = 0;  // still to come
};

// State that is on no heap: the program that writes a trace may be the one that is measured.
template <typename Item>
class Array {
 public:
  explicit Array(std::size_t count) : bytes_(count * sizeof(Item)) {
    void* const memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for a trace");
    items_ = static_cast<Item*>(memory);
    std::fill_n(items_, count, Item{});
  }
  ~Array() { munmap(items_, bytes_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  Item& operator[](std::size_t index) { return items_[index]; }

 private:
  std::size_t bytes_;
  Item* items_;
};

class Writer {
 public:
  explicit Writer(int descriptor) : descriptor_(descriptor) {}

  void add(TraceEvent event) {
    buffer_[used_++] = event;
    ++events_;
    if (used_ == kBuffer) flush();
  }
  void flush() {
    put(buffer_.data(), used_ * sizeof(TraceEvent));
    used_ = 0;
  }
  void put(const void* bytes, std::size_t size) {
    const char* at = static_cast<const char*>(bytes);
    while (size > 0) {
      const ssize_t written = write(descriptor_, at, size);
      if (written <= 0) fail("cannot write the trace");
      at += written;
      size -= static_cast<std::size_t>(written);
    }
  }
  std::uint64_t events() const { return events_; }

 private:
  static constexpr std::size_t kBuffer = 8192;

  int descriptor_;
  std::array<TraceEvent, kBuffer> buffer_;
  std::size_t used_ = 0;
  std::uint64_t events_ = 0;
};

std::uint32_t draw_size(Random& random) {
  static constexpr std::array<std::uint32_t, 12> kFavourites{16, 24, 32, 32, 40, 48, 56, 64, 72, 96, 128, 256};
  const std::uint64_t luck = random.below(1000);
  if (luck < 600) return kFavourites[random.below(kFavourites.size())];
  if (luck < 950) return static_cast<std::uint32_t>(kSmallestObject + random.below(504));
  if (luck < 995) return static_cast<std::uint32_t>(512 + random.below(7680));
  return static_cast<std::uint32_t>(8192 + random.below(121 << 10));
}

std::uint32_t draw_life(Random& random) {
  const std::uint64_t luck = random.below(100);
  if (luck < 70) return static_cast<std::uint32_t>(1 + random.below(200));
  if (luck < 90) return static_cast<std::uint32_t>(1 + random.below(20'000));
  return static_cast<std::uint32_t>(1 + random.below(kWheel - 1));
}

// One turn of the wheel per allocation; an object waits in the list of the turn at which something happens to it.
class Model {
 public:
  Model(Writer& writer, std::uint64_t seed) : writer_(writer), random_(seed), wheel_(kWheel), slots_(kSlots) {
    for (std::uint32_t i = 0; i < kWheel; ++i) wheel_[i] = kNone;
  }

  void allocate_one() {
    const std::uint32_t index = take_slot();
    Slot& slot = slots_[index];
    slot.size = draw_size(random_);
    slot.doublings = random_.one_in(30) ? static_cast<std::uint32_t>(1 + random_.below(8)) : 0;
    writer_.add(TraceEvent::make(TraceKind::malloc, index, slot.size));
    schedule(index);
  }
  void turn() {
    now_ = (now_ + 1) % kWheel;
    std::uint32_t index = wheel_[now_];
    wheel_[now_] = kNone;
    while (index != kNone) {
      const std::uint32_t next = slots_[index].next;
      happen(index);
      index = next;
    }
  }
  bool empty() const { return live_ == 0; }
  std::uint32_t slots() const { return used_; }

 private:
  static constexpr std::uint32_t kSlots = kWheel;  // one is taken per turn and none lives longer than the wheel

  std::uint32_t take_slot() {
    ++live_;
    if (free_ == kNone) {
      if (used_ == kSlots) fail("a trace has more objects than slots");
      return used_++;
    }
    const std::uint32_t index = free_;
    free_ = slots_[index].next;
    return index;
  }
  // A buffer lives as long between two doublings as others between birth and death.
  void schedule(std::uint32_t index) {
    const std::uint32_t life = slots_[index].doublings > 0 ? draw_life(random_) / 16 + 1 : draw_life(random_);
    std::uint32_t& head = wheel_[(now_ + life) % kWheel];
    slots_[index].next = head;
    head = index;
  }
  void happen(std::uint32_t index) {
    Slot& slot = slots_[index];
    if (slot.doublings > 0) {
      --slot.doublings;
      slot.size = std::min(slot.size * 2, 1U << 20);
      writer_.add(TraceEvent::make(TraceKind::realloc, index, slot.size));
      schedule(index);
      return;
    }
    writer_.add(TraceEvent::make(TraceKind::free, index, 0));
    slot.next = free_;
    free_ = index;
    --live_;
  }

  Writer& writer_;
  Random random_;
  Array<std::uint32_t> wheel_;
  Array<Slot> slots_;
  std::uint32_t now_ = 0;
  std::uint32_t free_ = kNone;
  std::uint32_t used_ = 0;
  std::uint32_t live_ = 0;
};

}  // namespace

void write_synthetic_trace(int descriptor, std::uint64_t events, std::uint64_t seed) {
  Writer writer(descriptor);
  const off_t begin = lseek(descriptor, 0, SEEK_CUR);
  TraceHeader header;
  writer.put(&header, sizeof header);
  Model model(writer, seed);
  while (writer.events() < events) {
    model.allocate_one();
    model.turn();
  }
  while (!model.empty()) model.turn();
  writer.flush();
  header.events = writer.events();
  header.slots = model.slots();
  if (pwrite(descriptor, &header, sizeof header, begin) != static_cast<ssize_t>(sizeof header)) {
    fail("cannot write the trace");
  }
}

}  // namespace polder::bench
