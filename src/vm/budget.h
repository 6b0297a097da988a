// The residency budget: how many pages may be resident, how many are charged, and when reclaim must start.
//
//   invariant   resident <= charged <= limit, at every moment, for every kind of page the library holds
//               (arena, staging, metadata, buffers)
//   watermarks  min < low < high, counted in FREE pages (limit - charged), as in the kernel's page allocator
//               (Documentation/admin-guide/sysctl/vm.rst, watermark_scale_factor):
//                 below low   background reclaim starts and goes on until high
//                 below min   whoever fills pages reclaims too
//
// A page is charged before it can become resident and uncharged after it has ceased to be. Thread-safe, lock-free, never
// blocks. Atomic: charged_ is contended by allocating threads, the pager and the reclaimer.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/units.h"

namespace polder {

struct Watermarks {
  PageCount min;
  PageCount low;
  PageCount high;
};

// How far apart two watermarks are, in 10,000ths of the limit, 1 to 1,000; the default stands for at most 32 MiB too. At
// least 32 pages, at most an eighth of the limit.
inline constexpr std::uint32_t kDefaultWatermarkScale = 78;
Watermarks watermarks_for(PageCount limit, std::uint32_t scale = kDefaultWatermarkScale);

class Budget {
 public:
  static constexpr PageCount kUnlimited{std::uint64_t{1} << 52};

  explicit Budget(PageCount limit, std::uint32_t watermark_scale = kDefaultWatermarkScale);

  // Charges all of `count` if at least `keep_free` pages stay free afterwards, else nothing.
  bool try_charge(PageCount count, PageCount keep_free = {});
  // For pages that are resident already: the next reclaim makes up for it.
  void charge_always(PageCount count);
  void uncharge(PageCount count);
  // The library's own state, which must exist whatever the limit. Part of charged().
  void charge_metadata(PageCount count);
  void uncharge_metadata(PageCount count);

  // A forked child counts its pages anew: what is left charged is the metadata. No other thread exists.
  void reset_in_child();

  // Takes effect at once for later charges; when lower than what is charged, reclaim has to catch up.
  void set_limit(PageCount limit);

  PageCount limit() const { return {limit_.load(std::memory_order_relaxed)}; }
  bool limited() const { return limit() < kUnlimited; }
  PageCount charged() const { return {charged_.load(std::memory_order_relaxed)}; }
  PageCount metadata() const { return {metadata_.load(std::memory_order_relaxed)}; }
  PageCount peak() const { return {peak_.load(std::memory_order_relaxed)}; }
  // Zero when over the limit.
  PageCount free() const;
  // How far above the limit, zero normally.
  PageCount excess() const;
  Watermarks watermarks() const { return watermarks_for(limit(), watermark_scale_); }
  // Those that there would be.
  Watermarks watermarks_at(PageCount limit) const { return watermarks_for(limit, watermark_scale_); }

 private:
  void note_peak(std::uint64_t charged);

  const std::uint32_t watermark_scale_;
  std::atomic<std::uint64_t> charged_{0};
  std::atomic<std::uint64_t> metadata_{0};  // part of charged_
  std::atomic<std::uint64_t> limit_;
  std::atomic<std::uint64_t> peak_{0};
};

}  // namespace polder
