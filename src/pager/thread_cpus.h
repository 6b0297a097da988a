// Where the application's threads run. The fault loop moves to the CPU of the thread that faults: a wake-up on the same
// CPU costs 8 µs a fault, one across idle CPUs 54 to 70 (measured). The kernel keeps each thread's CPU in a word of the
// thread's own memory (rseq(2), Linux 4.18, registered by glibc 2.35 and later); threads announce that word once.
//
// A list of tables, kernel thread id → word, that grows with the number of threads. note() and forget() from the thread
// itself, cpu_of() from the fault loop. A thread that ended without forget() leaves a stale address, which is read through
// the kernel and thus harmless.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <new>

#include "os/thread.h"
#include "vm/metadata.h"

namespace polder {

class ThreadCpus {
 public:
  explicit ThreadCpus(MetadataPool& pool) : pool_(pool) {}

  // Ignored when there is no memory: that thread is merely not followed.
  void note(std::uint32_t thread, const volatile std::uint32_t* cpu_word) {
    Entry* entry = find(thread, thread);
    if (entry == nullptr) entry = find(kNobody, kClaimed);
    if (entry == nullptr) entry = add_table();
    if (entry == nullptr) return;
    entry->cpu_word.store(cpu_word, std::memory_order_relaxed);
    entry->thread.store(thread, std::memory_order_release);  // pairs with the acquire in find
  }

  // The thread whose word that is, which knows its word without a system call, but not its id; also those that ended and
  // had it before.
  void forget(const volatile std::uint32_t* cpu_word) {
    for (Table* table = tables_.load(std::memory_order_acquire); table != nullptr; table = table->next) {
      for (Entry& entry : table->entries) {
        std::uint32_t thread = entry.thread.load(std::memory_order_acquire);
        const bool known = thread != kNobody && thread != kClaimed;
        if (known && entry.cpu_word.load(std::memory_order_relaxed) == cpu_word) {
          entry.thread.compare_exchange_strong(thread, kNobody);
        }
      }
    }
  }

  // The CPU that the thread, blocked in a fault, left; false when unknown.
  bool cpu_of(std::uint32_t thread, std::uint32_t* cpu) {
    const Entry* const entry = find(thread, thread);
    return entry != nullptr && os::read_word_safely(entry->cpu_word.load(std::memory_order_relaxed), cpu);
  }

  // No other thread exists.
  void reset_in_child() {
    for (Table* table = tables_.load(); table != nullptr; table = table->next) {
      for (Entry& entry : table->entries) entry.thread.store(kNobody);
    }
  }

 private:
  static constexpr std::uint32_t kNobody = 0;
  static constexpr std::uint32_t kClaimed = ~std::uint32_t{0};

  struct Entry {
    std::atomic<std::uint32_t> thread{kNobody};
    std::atomic<const volatile std::uint32_t*> cpu_word{nullptr};
  };
  struct Table {
    Table* next;  // immutable once the table is on the list
    std::array<Entry, 15> entries;
  };

  // The entry of that thread, which is `now`'s from here on.
  Entry* find(std::uint32_t thread, std::uint32_t now) {
    for (Table* table = tables_.load(std::memory_order_acquire); table != nullptr; table = table->next) {
      for (Entry& entry : table->entries) {
        if (entry.thread.load(std::memory_order_acquire) != thread) continue;
        std::uint32_t expected = thread;
        if (now == thread || entry.thread.compare_exchange_strong(expected, now)) return &entry;
      }
    }
    return nullptr;
  }

  // Its first entry, claimed.
  Entry* add_table() {
    void* const memory = pool_.allocate(sizeof(Table));
    if (memory == nullptr) return nullptr;
    auto* const table = new (memory) Table;
    table->entries[0].thread.store(kClaimed, std::memory_order_relaxed);
    table->next = tables_.load(std::memory_order_relaxed);
    // Release pairs with the acquire in find.
    while (!tables_.compare_exchange_weak(table->next, table, std::memory_order_release, std::memory_order_relaxed)) {
    }
    return &table->entries[0];
  }

  MetadataPool& pool_;
  std::atomic<Table*> tables_{nullptr};
};

}  // namespace polder
