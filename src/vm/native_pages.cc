#include "vm/native_pages.h"

#include <algorithm>

#include "base/check.h"

namespace polder {

template <typename Visit>
void NativePages::for_each_word(Run run, Visit visit) {
  const std::uint32_t first = run.first.value % kPagesPerBlock;
  const std::uint32_t end = first + static_cast<std::uint32_t>(run.pages.value);
  POLDER_DCHECK(end <= kPagesPerBlock, "run reaches beyond its pageblock", run.first.value, run.pages.value);
  for (std::uint32_t at = first; at < end;) {
    const std::uint32_t bit = at % 64;
    const std::uint32_t length = std::min(end - at, 64 - bit);
    visit(at / 64, UINT64_MAX >> (64 - length) << bit);
    at += length;
  }
}

template <typename WordOf>
Run NativePages::first_stretch(Run run, WordOf word_of) {
  const std::uint32_t first = run.first.value % kPagesPerBlock;
  const std::uint32_t end = first + static_cast<std::uint32_t>(run.pages.value);
  std::uint32_t begin = first;
  while (begin < end) {
    const std::uint64_t ahead = word_of(begin / 64) >> (begin % 64);
    if (ahead != 0) {
      begin += static_cast<std::uint32_t>(std::countr_zero(ahead));
      break;
    }
    begin = (begin / 64 + 1) * 64;
  }
  begin = std::min(begin, end);
  std::uint32_t after = begin;
  while (after < end) {
    const std::uint32_t left = 64 - after % 64;
    const auto set = static_cast<std::uint32_t>(std::countr_one(word_of(after / 64) >> (after % 64)));
    after += std::min(set, left);
    if (set < left) break;
  }
  after = std::min(after, end);
  return {run.first + PageCount{begin - first}, {after - begin}};
}

bool NativePages::all_untouched() const {
  for (unsigned word = 0; word < kWords; ++word) {
    if ((load(resident_, word) | load(used_, word)) != 0) return false;
  }
  return true;
}

bool NativePages::all_resident() const {
  for (unsigned word = 0; word < kWords; ++word) {
    if (load(resident_, word) != UINT64_MAX) return false;
  }
  return true;
}

PageCount NativePages::resident() const {
  PageCount pages;
  for (unsigned word = 0; word < kWords; ++word) {
    pages.value += static_cast<unsigned>(std::popcount(load(resident_, word)));
  }
  return pages;
}

PageCount NativePages::untouched(Run run) const {
  PageCount pages;
  for_each_word(run, [&](unsigned word, std::uint64_t mask) {
    pages.value += static_cast<unsigned>(std::popcount(mask & ~(load(resident_, word) | load(used_, word))));
  });
  return pages;
}

bool NativePages::has_used(Run run) const {
  std::uint64_t used = 0;
  for_each_word(run, [&](unsigned word, std::uint64_t mask) { used |= mask & load(used_, word); });
  return used != 0;
}

Run NativePages::first_resident(Run run) const {
  return first_stretch(run, [this](unsigned word) { return load(resident_, word); });
}

Run NativePages::first_guards(Run run) const {
  return first_stretch(run, [this](unsigned word) { return load(used_, word) & ~load(resident_, word); });
}

void NativePages::provide(Run run) {
  for_each_word(run, [&](unsigned word, std::uint64_t mask) {
    store(resident_, word, load(resident_, word) | (mask & ~load(used_, word)));
  });
}

void NativePages::settle(Run run) {
  for_each_word(run, [&](unsigned word, std::uint64_t mask) {
    store(used_, word, load(used_, word) | (mask & load(resident_, word)));
  });
}

void NativePages::drop(Run run) {
  for_each_word(run, [&](unsigned word, std::uint64_t mask) {
    const std::uint64_t dropped = mask & load(resident_, word);
    store(resident_, word, load(resident_, word) & ~dropped);
    store(used_, word, load(used_, word) & ~dropped);
  });
}

void NativePages::make_guards(Run run) {
  for_each_word(run, [&](unsigned word, std::uint64_t mask) {
    POLDER_CHECK((mask & (load(resident_, word) | load(used_, word))) == 0, "only untouched pages become guards",
                 run.first.value, run.pages.value);
    store(used_, word, load(used_, word) | mask);
  });
}

void NativePages::end_guards(Run run) {
  for_each_word(run, [&](unsigned word, std::uint64_t mask) {
    POLDER_CHECK((mask & (load(resident_, word) | ~load(used_, word))) == 0, "pages are guards", run.first.value,
                 run.pages.value);
    store(used_, word, load(used_, word) & ~mask);
  });
}

}  // namespace polder
