#include "vm/budget.h"

#include <algorithm>

#include "base/check.h"

namespace polder {

namespace {

constexpr std::uint64_t kWhole = 10'000;
constexpr std::uint64_t kLeastLow = 32;
constexpr std::uint64_t kMostLow = 8192;   // where no scale was chosen
constexpr std::uint64_t kMostLowPart = 8;  // of the limit

}  // namespace

// By default 1/128 and 1/64 of the limit: small enough that the idle pages cost no hit rate worth measuring, large enough
// that a reclaimer woken across CPUs (60 µs, about 60 fills) arrives in time.
Watermarks watermarks_for(PageCount limit, std::uint32_t scale) {
  const std::uint64_t part = limit.value / kMostLowPart;
  const std::uint64_t most = scale == kDefaultWatermarkScale ? std::min(kMostLow, part) : part;
  const std::uint64_t low = std::max(kLeastLow, std::min(limit.value * scale / kWhole, most));
  return {.min = {low / 4}, .low = {low}, .high = {2 * low}};
}

Budget::Budget(PageCount limit, std::uint32_t watermark_scale)
    : watermark_scale_(watermark_scale), limit_(limit.value) {}

bool Budget::try_charge(PageCount count, PageCount keep_free) {
  std::uint64_t charged = charged_.load(std::memory_order_relaxed);
  do {
    if (charged + count.value + keep_free.value > limit_.load(std::memory_order_relaxed)) return false;
  } while (!charged_.compare_exchange_weak(charged, charged + count.value, std::memory_order_relaxed));
  note_peak(charged + count.value);
  return true;
}

void Budget::charge_always(PageCount count) {
  note_peak(charged_.fetch_add(count.value, std::memory_order_relaxed) + count.value);
}

void Budget::uncharge(PageCount count) {
  [[maybe_unused]] const std::uint64_t before = charged_.fetch_sub(count.value, std::memory_order_relaxed);
  POLDER_CHECK(before >= count.value, "uncharged more than was charged", before, count.value);
}

void Budget::charge_metadata(PageCount count) {
  metadata_.fetch_add(count.value, std::memory_order_relaxed);
  charge_always(count);
}

void Budget::uncharge_metadata(PageCount count) {
  metadata_.fetch_sub(count.value, std::memory_order_relaxed);
  uncharge(count);
}

void Budget::reset_in_child() { charged_.store(metadata_.load(std::memory_order_relaxed), std::memory_order_relaxed); }

void Budget::set_limit(PageCount limit) { limit_.store(limit.value, std::memory_order_relaxed); }

PageCount Budget::free() const {
  const std::uint64_t limit = limit_.load(std::memory_order_relaxed);
  const std::uint64_t charged = charged_.load(std::memory_order_relaxed);
  return {limit > charged ? limit - charged : 0};
}

PageCount Budget::excess() const {
  const std::uint64_t limit = limit_.load(std::memory_order_relaxed);
  const std::uint64_t charged = charged_.load(std::memory_order_relaxed);
  return {charged > limit ? charged - limit : 0};
}

void Budget::note_peak(std::uint64_t charged) {
  std::uint64_t peak = peak_.load(std::memory_order_relaxed);
  while (charged > peak && !peak_.compare_exchange_weak(peak, charged, std::memory_order_relaxed)) {
  }
}

}  // namespace polder
