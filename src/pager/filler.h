// Fault resolution: brings the page of a fault into the arena, from nothing, from staging or from the store.
//
// The life of a fault:
//   1. the fault loop reads the message; the word's state decides
//   2. untouched   room for the page (and its neighbours, where touches run forward); zeros are copied in
//      staged      room; the bytes are copied back out of staging, with what else is there of the object or the dense
//                  folio: a soft fault
//      stored      room; same-filled bytes are made up; others are read, asynchronously: with what else belongs to their
//                  object, with their folio where faults are dense, or with a stream's window, ahead of which more is read
//      read ahead  the first stretch of it is put in place only now, and the stream read on
//      in transition, or no room: the fault is parked and tried again when something changed
//   3. the page is installed with UFFDIO_COPY, which wakes its waiters; the word becomes resident; the policy learns
//   4. a read that fails, or whose hash differs, poisons its page: whoever touches it gets SIGBUS, nobody gets garbage
//
// Fault loop only; never waits and takes no lock that an allocating thread can hold.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <bit>
#include <cstdint>

#include "os/io_engine.h"
#include "os/pagemap.h"
#include "pager/courtesy.h"
#include "pager/evictor.h"
#include "pager/fault_density.h"
#include "pager/parts.h"
#include "pager/readahead.h"

namespace polder {

enum class Resolution : std::uint8_t {
  done,        // installed, woken, or a read is on its way
  transition,  // the page or its block is on its way somewhere: try again when it has settled
  no_room,     // the budget is exhausted: try again when pages became free
};

class Filler {
 public:
  static constexpr unsigned kMaxReads = 64;

  // `objects` may be null: pages come one by one then, unless they are a stream's.
  Filler(PagerParts& parts, Evictor& evictor, Courtesy& courtesy, const ObjectMap* objects)
      : parts_(parts), evictor_(evictor), courtesy_(courtesy), objects_(objects) {}

  // Buffers for `reads` concurrent reads of up to a folio each, and what is remembered of faults; their size. ENOMEM.
  static PageCount memory_for(unsigned reads) {
    return PageCount{1 + std::uint64_t{reads} * kPagesPerFolio} +
           pages_up(FaultDensity::bytes_for(remembered_for(reads)));
  }
  Errno prepare(unsigned reads);
  // Engines and descriptors of the calling service thread.
  void attach(os::IoEngine& engine, os::Pagemap& pagemap);
  // In a forked child: reads that were on their way do not exist here.
  void reset_in_child();

  Resolution resolve(PageId page, const os::Fault& fault);
  void read_completed(const os::IoCompletion& completion);
  // Starts again what failed and has waited long enough; puts markers in place that nobody came for.
  void look_after_reads();

  // With the device.
  unsigned reads_outstanding() const { return reads_outstanding_ - reads_waiting_ - reads_held_; }
  // How soon look_after_reads() wants to be called, if no fault or completion comes before; negative: never.
  int patience_ms() const { return reads_waiting_ != 0 ? kRetryMs : reads_held_ != 0 ? kHoldMs : -1; }
  // How long a read that a fault asked for takes of late; 0 before the first.
  std::uint64_t typical_read_ns() const { return typical_read_ns_; }

  // A fault that found no room for too long: the page is given up, its toucher gets SIGBUS.
  void give_up(PageId page);

  // While `thread` forks nobody else may take the last pages; 0 ends it. Any thread.
  void favour(std::uint32_t thread) { favoured_.store(thread, std::memory_order_relaxed); }

  // Puts zeros into a hole: in staging, where somebody looked who may see anything (mlockall, a debugger), or in the
  // arena, met by the reclaimer while it copied a page on write that the program had dropped.
  void plug(std::uintptr_t address);

 private:
  static constexpr int kRetryMs = 1;
  // Whoever waits for a page on its way must not wait for a marker for long.
  static constexpr int kHoldMs = 10;

  // Folios; more than can be resident of late.
  static constexpr std::uint32_t remembered_for(unsigned reads) { return std::bit_ceil(reads) * 64; }

  // Its first page: by a fault; with one that was, around it; ahead of a stream.
  enum class Asked : std::uint8_t { by_fault, around, ahead };

  struct Read {
    PageId first;
    std::uint32_t count = 0;        // 0: free
    std::uint32_t wanted = 0;       // the first of them, that are as good as asked for
    unsigned attempts = 0;          // that failed
    std::uint64_t retry_at_ns = 0;  // 0: with the device
    std::uint64_t submitted_ns = 0;
    Asked asked = Asked::by_fault;
    bool marker = false;        // to be held until somebody comes for it
    std::uint64_t held_ns = 0;  // since when it is complete and held; 0: it is not
    iovec vector{};
    char* buffer = nullptr;
  };

  bool charge_one(const os::Fault& fault);
  bool begin(PageId page, PageWord& word);
  void revert(PageId page);
  void drop_copy(PageWord word);
  enum class Copy : std::uint8_t { none, retained, streamed };
  void finish(PageId page, Copy stored_copy);
  std::uint32_t install(PageId first, std::uint32_t count, const char* bytes);

  Resolution fill_zero(PageId page, const os::Fault& fault);
  Resolution take_back(PageId page, PageWord word, const os::Fault& fault);
  enum class CopiedBack : std::uint8_t { yes, no_mapping, in_transition };
  CopiedBack copy_back(PageId page, PageWord word);
  void take_back_others(Run others);
  Resolution take_back_by_move(PageId page, PageWord word);
  void took_back(PageId page);
  Resolution fill_pattern(PageId page, PageWord word, const os::Fault& fault);
  Resolution start_read(PageId page, const os::Fault& fault);
  void read_others(Run others);
  struct Stretches {
    PageId end;  // what was looked at
    Read* lowest = nullptr;
    Read* highest = nullptr;
  };
  PageId read_ahead(const Readahead::Ahead& ahead, PageId* marker);
  Stretches read_stretches(Run pages);
  Resolution meet(PageId page, PageWord word);
  void put_in_place(Read& read);
  void put_in_place_oldest();
  PageCount claim_stored(PageId first, std::uint32_t window, PageCount reserve);
  Run object_of(PageId page, const os::Fault& fault, bool walks) const;
  Run neighbourhood(PageId page, const os::Fault& fault, const Readahead::Window& window);
  PageCount room_kept_ahead() const;
  unsigned spare_reads() const;
  Read* free_read(unsigned spare);
  void submit_new(Read& read, PageId first, PageCount count, PageCount wanted, Asked asked);
  Resolution check_present(PageId page);
  std::uint32_t zero_window(PageId page) const;
  std::uint32_t handed_out_from(PageId page) const;
  void submit(Read& read);
  void read_failed(Read& read, Errno error);
  void lose(PageId page, const char* why);
  bool poison(PageId page, PageWord otherwise);

  PagerParts& parts_;
  Evictor& evictor_;
  Courtesy& courtesy_;
  const ObjectMap* const objects_;
  os::IoEngine* engine_ = nullptr;
  os::Pagemap* pagemap_ = nullptr;
  Readahead readahead_;
  FaultDensity density_;
  Read reads_[kMaxReads];
  unsigned read_count_ = 0;
  unsigned reads_outstanding_ = 0;
  unsigned reads_waiting_ = 0;  // of these, for another attempt
  unsigned reads_held_ = 0;     // of these, complete
  std::uint64_t typical_read_ns_ = 0;
  char* pattern_page_ = nullptr;
  std::atomic<std::uint32_t> favoured_{0};  // atomic: set by the forking thread
};

}  // namespace polder
