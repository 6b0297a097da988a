// Where the application's threads run. The fault loop moves to the CPU of the thread that faults: a wake-up on the same
// CPU costs 8 µs a fault, one across idle CPUs 54 to 70 (measured). The kernel keeps each thread's CPU in a word of the
// thread's own memory (rseq(2), Linux 4.18, registered by glibc 2.35 and later); threads announce that word once.
//
// Fixed open-addressed table, kernel thread id → word. note() and forget() from the thread itself, cpu_of() from the
// fault loop. A thread that ended without forget() leaves a stale address, which is read through the kernel and thus
// harmless.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/fatal.h"
#include "os/thread.h"
#include "vm/metadata.h"

namespace polder {

class ThreadCpus {
 public:
  // Aborts with a report when the kernel refuses the table's memory.
  explicit ThreadCpus(MetadataSpace& space) : entries_(space, kEntries) {
    const Errno error = entries_.ensure(kEntries);
    if (!error.ok()) report_arena_unavailable(metadata_bytes(), error.code());
  }

  static std::size_t metadata_bytes() { return MetadataArray<Entry>::bytes_for(kEntries); }

  // Ignored when the table is full near its place: that thread is merely not followed.
  void note(std::uint32_t thread, const volatile std::uint32_t* cpu_word) {
    for (std::uint32_t probe = 0; probe < kProbes; ++probe) {
      Entry& entry = entries_[(thread + probe) % kEntries];
      std::uint32_t expected = 0;
      if (entry.thread.load(std::memory_order_relaxed) == thread ||
          entry.thread.compare_exchange_strong(expected, kClaimed, std::memory_order_relaxed)) {
        entry.cpu_word.store(cpu_word, std::memory_order_relaxed);
        entry.thread.store(thread, std::memory_order_release);  // pairs with the acquire in cpu_of
        return;
      }
    }
  }

  void forget(std::uint32_t thread) {
    for (std::uint32_t probe = 0; probe < kProbes; ++probe) {
      Entry& entry = entries_[(thread + probe) % kEntries];
      if (entry.thread.load(std::memory_order_relaxed) == thread) {
        entry.thread.store(0, std::memory_order_relaxed);
        return;
      }
    }
  }

  // The CPU that the thread, blocked in a fault, left; false when unknown.
  bool cpu_of(std::uint32_t thread, std::uint32_t* cpu) const {
    for (std::uint32_t probe = 0; probe < kProbes; ++probe) {
      const Entry& entry = entries_[(thread + probe) % kEntries];
      if (entry.thread.load(std::memory_order_acquire) != thread) continue;
      return os::read_word_safely(entry.cpu_word.load(std::memory_order_relaxed), cpu);
    }
    return false;
  }

  void reset_in_child() {
    for (std::uint32_t i = 0; i < kEntries; ++i) entries_[i].thread.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint32_t kEntries = 1024;
  static constexpr std::uint32_t kProbes = 8;
  static constexpr std::uint32_t kClaimed = ~std::uint32_t{0};

  struct Entry {
    std::atomic<std::uint32_t> thread;
    std::atomic<const volatile std::uint32_t*> cpu_word;
  };
  MetadataArray<Entry> entries_;  // of the table, what threads have touched
};

}  // namespace polder
