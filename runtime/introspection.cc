#include "runtime/introspection.h"

#include <algorithm>
#include <cinttypes>

#include "base/message.h"
#include "heap/heap.h"
#include "runtime/instance.h"

namespace polder::runtime {
namespace {

struct Snapshot {
  Heap::Statistics heap;
  std::size_t dirty_bytes = 0;
  std::size_t address_bytes = 0;

  Snapshot() {
    Manager& manager = start_manager();
    manager.heap().statistics(heap);
    const Buddy::Statistics space = manager.buddy().statistics();
    dirty_bytes = bytes(manager.heap().free_pages().dirty());
    address_bytes = bytes(space.frontier);
  }

  std::uint64_t free_objects() const {
    std::uint64_t count = 0;
    for (const Heap::ClassStatistics& its : heap.classes) count += its.objects - its.handed_out;
    return count;
  }
};

struct mallinfo2 info_of(const Snapshot& snapshot) {
  struct mallinfo2 info {};
  info.arena = bytes(snapshot.heap.slab_pages);
  info.ordblks = snapshot.free_objects();
  info.hblks = snapshot.heap.large_runs;
  info.hblkhd = bytes(snapshot.heap.large_pages);
  info.uordblks = snapshot.heap.small_bytes;
  info.fordblks = info.arena - info.uordblks;
  info.keepcost = snapshot.dirty_bytes;
  return info;
}

void write_free_sizes(FILE* stream, const Snapshot& snapshot) {
  std::fputs("<sizes>\n", stream);
  std::size_t below = 0;
  for (const Heap::ClassStatistics& its : snapshot.heap.classes) {
    const std::uint64_t free = its.objects - its.handed_out;
    if (free != 0) {
      std::fprintf(stream, "  <size from=\"%zu\" to=\"%zu\" total=\"%" PRIu64 "\" count=\"%" PRIu64 "\"/>\n", below + 1,
                   its.object_size, free * its.object_size, free);
    }
    below = its.object_size;
  }
  std::fputs("</sizes>\n", stream);
}

void write_totals(FILE* stream, std::size_t rest_count, std::size_t rest_bytes) {
  std::fprintf(stream,
               "<total type=\"fast\" count=\"0\" size=\"0\"/>\n"
               "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n",
               rest_count, rest_bytes);
}

void write_spaces(FILE* stream, std::size_t current, std::size_t most) {
  std::fprintf(stream,
               "<system type=\"current\" size=\"%zu\"/>\n"
               "<system type=\"max\" size=\"%zu\"/>\n"
               "<aspace type=\"total\" size=\"%zu\"/>\n"
               "<aspace type=\"mprotect\" size=\"%zu\"/>\n",
               current, most, most, most);
}

void write_own_elements(FILE* stream, const Snapshot& snapshot) {
  const Manager& manager = running_manager();
  const Budget& budget = running_manager().budget();
  std::fprintf(stream,
               "<polder limit=\"%zu\" charged=\"%zu\" peak_charged=\"%zu\" metadata=\"%zu\" dirty=\"%zu\" "
               "thread_caches=\"%" PRIu64 "\">\n",
               manager.memory_limit(), bytes(budget.charged()), bytes(budget.peak()), bytes(budget.metadata()),
               snapshot.dirty_bytes, snapshot.heap.thread_caches);
  for (const Heap::ClassStatistics& its : snapshot.heap.classes) {
    if (its.slabs == 0 && its.refills == 0) continue;
    std::fprintf(stream,
                 "  <class size=\"%zu\" slabs=\"%" PRIu64 "\" objects=\"%" PRIu64 "\" handed_out=\"%" PRIu64
                 "\" refills=\"%" PRIu64 "\" flushes=\"%" PRIu64 "\"/>\n",
                 its.object_size, its.slabs, its.objects, its.handed_out, its.refills, its.flushes);
  }
  std::fputs("</polder>\n", stream);
}

}  // namespace

struct mallinfo2 heap_info() {
  return info_of(Snapshot());
}

void write_heap_info(FILE* stream) {
  const Snapshot snapshot;
  const struct mallinfo2 info = info_of(snapshot);
  const std::size_t most = std::max(snapshot.address_bytes, info.arena + info.hblkhd);
  std::fputs("<malloc version=\"1\">\n<heap nr=\"0\">\n", stream);
  write_free_sizes(stream, snapshot);
  write_totals(stream, info.ordblks, info.fordblks);
  write_spaces(stream, info.arena, most);
  std::fputs("</heap>\n", stream);
  write_totals(stream, info.ordblks, info.fordblks);
  std::fprintf(stream, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n", info.hblks, info.hblkhd);
  write_spaces(stream, info.arena + info.hblkhd, most);
  write_own_elements(stream, snapshot);
  std::fputs("</malloc>\n", stream);
}

void say_heap_info() {
  const struct mallinfo2 info = heap_info();
  say(Message().text("system bytes     = ").number(info.arena + info.hblkhd));
  say(Message().text("in use bytes     = ").number(info.uordblks + info.hblkhd));
  say(Message().text("large runs       = ").number(info.hblks));
  say(Message().text("large run bytes  = ").number(info.hblkhd));
}

}  // namespace polder::runtime
