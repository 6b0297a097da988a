// A backing for tests of the heap: memory of a small arena, or none at all; keeps exact account of every page, refuses
// when told to, and makes sure that it is called without a lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>
#include <vector>

#include "os/mapping.h"
#include "os/mutex.h"
#include "vm/arena.h"
#include "vm/backing.h"

namespace polder {

class FakeBacking final : public Backing {
 public:
  // `none`: no page is ever accessible, whoever touches one crashes.
  enum class Memory : unsigned char { real, none };

  FakeBacking(Arena& arena, Memory memory) : arena_(arena), memory_(memory), pages_(arena.pages().value) {}

  bool provide(Run run, Occupancy occupancy) override {
    require_no_lock();
    const std::lock_guard<std::mutex> lock(mutex_);
    ++provides_;
    if (occupancy == Occupancy::dense) dense_ += run.pages;
    require_no_guard(run);
    if (run.pages.value > capacity_ - provided_) return false;
    provided_ += run.pages.value;
    if (memory_ == Memory::real && !arena_.commit(run).ok()) return false;
    for (std::uint32_t page = run.first.value; page < run.end().value; ++page) {
      require(!pages_[page].provided, "page is provided twice", page);
      pages_[page].provided = true;
      if (pages_[page].dirty && memory_ == Memory::real) std::memset(arena_.address(PageId{page}), 0xDB, kPageSize);
    }
    return true;
  }

  void discard(Run run) override {
    require_no_lock();
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::uint32_t page = run.first.value; page < run.end().value; ++page) {
      require(pages_[page].provided, "page is discarded that was not provided", page);
      pages_[page] = {.provided = false, .dirty = !pages_[page].moved, .moved = false, .guard = false};
    }
    provided_ -= run.pages.value;
  }

  bool reads_as_zero(Run run) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::uint32_t page = run.first.value; page < run.end().value; ++page) {
      require(pages_[page].provided, "page is asked for that was not provided", page);
      if (pages_[page].dirty) return false;
    }
    return true;
  }

  using Backing::purge;
  void purge(std::span<const Run> runs) override {
    require_no_lock();
    const std::lock_guard<std::mutex> lock(mutex_);
    ++purges_;
    for (const Run run : runs) purge_locked(run);
  }

  void purge_locked(Run run) {
    require_no_guard(run);
    for (std::uint32_t page = run.first.value; page < run.end().value; ++page) {
      require(!pages_[page].provided, "page is purged while it is in use", page);
      if (!pages_[page].dirty) continue;
      pages_[page].dirty = false;
      if (memory_ == Memory::real) (void)os::discard(arena_.address(PageId{page}), kPageSize);
    }
  }

  bool provide_for_relocation(Run run, Run /*from*/) override { return provide(run, Occupancy::sparse); }

  PageCount relocate(Run from, PageId to) override {
    require_no_lock();
    const std::lock_guard<std::mutex> lock(mutex_);
    PageCount moved;
    for (; moved < from.pages; ++moved.value) {
      Page& source = pages_[(from.first + moved).value];
      Page& target = pages_[(to + moved).value];
      require(source.provided && target.provided, "page is moved that was not provided", from.first.value);
      if (target.dirty || (refuse_every_ != 0 && ++relocations_ % refuse_every_ == 0)) break;
      source.moved = true;
      target.dirty = true;
      move_bytes(from.first + moved, to + moved);
    }
    return moved;
  }

  PageCount recycle(DirtySource& source, Run to) override {
    require_no_lock();
    PageCount done;
    while (done < to.pages) {
      const std::optional<Run> from = source.take(to.pages - done);
      if (!from) break;
      const std::optional<PageCount> moved = recycle_run(*from, {to.first + done, to.pages - done});
      source.give_back(*from, !moved);
      if (!moved) break;
      done += *moved;
    }
    return done;
  }

  std::optional<PageCount> recycle_run(Run from, Run to) {
    const std::lock_guard<std::mutex> lock(mutex_);
    PageCount moved;
    for (PageId page = from.first; page < from.end() && moved < to.pages; ++page) {
      Page& source = pages_[page.value];
      Page& target = pages_[(to.first + moved).value];
      require(!source.provided && target.provided && !target.dirty, "page is recycled out of place", page.value);
      if (!source.dirty) continue;
      if (refuse_every_ != 0 && ++relocations_ % refuse_every_ == 0) {
        if (moved.value == 0) return std::nullopt;
        break;
      }
      source.dirty = false;
      target.dirty = true;
      move_bytes(page, to.first + moved);
      ++moved.value;
      ++recycled_;
    }
    return moved;
  }

  void zero(Run run) override {
    require_no_lock();
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::uint32_t page = run.first.value; page < run.end().value; ++page) {
      require(pages_[page].provided, "page is cleared that was not provided", page);
      ++zeroed_;
      if (memory_ == Memory::real) std::memset(arena_.address(PageId{page}), 0, kPageSize);
    }
  }

  bool guard(Run run) override {
    require_no_lock();
    const std::lock_guard<std::mutex> lock(mutex_);
    require_no_guard(run);
    if (memory_ == Memory::real && !arena_.commit(run).ok()) return false;
    for (std::uint32_t page = run.first.value; page < run.end().value; ++page) {
      require(!pages_[page].provided, "page is guarded while it is in use", page);
      if (memory_ == Memory::real && pages_[page].dirty) (void)os::discard(arena_.address(PageId{page}), kPageSize);
      pages_[page].dirty = false;
      if (refuse_guards_) continue;
      pages_[page].guard = true;
      ++guards_;
      if (memory_ == Memory::real) (void)os::install_guards(arena_.address(PageId{page}), kPageSize);
    }
    return !refuse_guards_;
  }

  bool unguard(Run run) override {
    require_no_lock();
    const std::lock_guard<std::mutex> lock(mutex_);
    bool whole = true;
    for (std::uint32_t page = run.first.value; page < run.end().value; ++page) {
      whole = whole && pages_[page].guard;
      if (!pages_[page].guard) continue;
      pages_[page].guard = false;
      --guards_;
      if (memory_ == Memory::real) (void)os::remove_guards(arena_.address(PageId{page}), kPageSize);
    }
    return whole;
  }

  bool may_evict() const override { return may_evict_; }
  bool under_pressure() const override { return under_pressure_; }

  void refuse_guards() { refuse_guards_ = true; }
  bool is_guard(PageId page) const { return pages_[page.value].guard; }
  std::uint64_t guards() const { return guards_; }
  std::uint64_t zeroed() const { return zeroed_; }  // pages
  void set_under_pressure(bool under_pressure) {
    under_pressure_ = under_pressure;
    may_evict_ = may_evict_ || under_pressure;
  }
  void refuse_relocation_of_every(std::uint64_t pages) { refuse_every_ = pages; }
  // Pages that may be provided at one time.
  void set_capacity(std::uint64_t pages) {
    const std::lock_guard<std::mutex> lock(mutex_);
    capacity_ = pages > provided_ ? pages : provided_;
  }
  std::uint64_t provided() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return provided_;
  }
  std::uint64_t dirty() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::uint64_t count = 0;
    for (const Page& page : pages_) count += page.dirty && !page.provided;
    return count;
  }
  std::uint64_t provides() const { return provides_; }
  PageCount dense() const { return dense_; }  // of all that was ever provided
  std::uint64_t purges() const { return purges_; }
  std::uint64_t recycled() const { return recycled_; }  // pages
  bool is_provided(PageId page) const { return pages_[page.value].provided; }

  // Around fork, so that the child can go on.
  std::mutex& mutex() { return mutex_; }

 private:
  struct Page {
    bool provided = false;
    bool dirty = false;
    bool moved = false;  // away, since it was provided
    bool guard = false;
  };

  void move_bytes(PageId from, PageId to) {
    if (memory_ != Memory::real) return;
    std::memcpy(arena_.address(to), arena_.address(from), kPageSize);
    (void)os::discard(arena_.address(from), kPageSize);
  }

  static void require(bool condition, const char* text, std::uint32_t page) {
    if (condition) return;
    std::fprintf(stderr, "fake backing: %s: %u\n", text, page);
    std::abort();
  }
  void require_no_guard(Run run) const {
    for (std::uint32_t page = run.first.value; page < run.end().value; ++page) {
      require(!pages_[page].guard, "page is used while it is a guard", page);
    }
  }
  // Every lock of the heap ranks above this one, so a thread that holds any is refused in debug builds.
  static void require_no_lock() {
    os::Mutex lowest(LockRank::reclaim);
    const os::MutexLock lock(lowest);
  }

  Arena& arena_;
  const Memory memory_;
  mutable std::mutex mutex_;
  std::vector<Page> pages_;
  std::uint64_t provided_ = 0;
  std::uint64_t capacity_ = ~std::uint64_t{0};
  std::uint64_t provides_ = 0;
  PageCount dense_;
  std::uint64_t purges_ = 0;
  std::uint64_t relocations_ = 0;
  std::uint64_t recycled_ = 0;
  std::uint64_t refuse_every_ = 0;
  std::uint64_t guards_ = 0;
  std::uint64_t zeroed_ = 0;
  bool under_pressure_ = false;
  bool may_evict_ = false;
  bool refuse_guards_ = false;
};

}  // namespace polder
