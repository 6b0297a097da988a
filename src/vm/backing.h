// What the heap asks of whoever keeps its pages: the only way in which the heap reaches the pager. The pager implements
// it; tests of the heap use a fake. Callable from any allocating thread that holds NO lock. To provide and to relocate may
// wait for memory to be evicted, the others never wait for I/O.
#pragma once

#include <optional>
#include <span>

#include "vm/run.h"

namespace polder {

// Runs of which pages may be resident that nobody owns any more, one by one.
class DirtySource {
 public:
  // A run of at most so many pages, isolated from the buddy; empty when there is none.
  virtual std::optional<Run> take(PageCount most) = 0;
  // After every take, before the next. Refused: nothing of it can be moved. Otherwise what is left of its pages is still
  // charged, but hardly any of them is there.
  virtual void give_back(Run run, bool refused) = 0;

 protected:
  ~DirtySource() = default;
};

// dense: all of the run and of what comes to lie beside it will be written to soon, and there is so much of that kind that
// a huge page more does not count.
enum class Occupancy : unsigned char { sparse, dense };

class Backing {
 public:
  // Gets the pages of a run from the buddy ready for use: address space committed, pages charged against the budget or
  // arranged to be filled on first touch. Contents are undefined except where reads_as_zero() says so. False when
  // neither memory nor swap is left: nothing is charged then, and the caller returns the run to the buddy as it was.
  virtual bool provide(Run run, Occupancy occupancy) = 0;
  // The same for a run to which the pages of `from` will be relocated: so that they can be.
  virtual bool provide_for_relocation(Run run, Run from) = 0;

  // The run's contents are no longer wanted: stored copies are dropped at once, resident pages stay charged until they
  // are handed out again or purged. Called before the run goes back to the buddy.
  virtual void discard(Run run) = 0;

  // True when every page of the run reads as zero without having been written since provide().
  virtual bool reads_as_zero(Run run) const = 0;

  // Drops the resident pages of runs that the caller has isolated from the buddy, and uncharges them. Many runs at once take
  // less time than one after the other.
  virtual void purge(std::span<const Run> runs) = 0;
  void purge(Run run) { purge({&run, 1}); }

  // Moves pages by their page-table entries, without copying or touching them, to a run of as many that were never
  // touched since they were last purged. Both are the caller's alone. The number moved, from the start; the rest is where
  // it was. Where they came from, pages read as zero and are not charged any more. Costs 20 µs and 0.1 µs a page
  // (measured; to copy a page and to touch it first takes 2). What is stored moves without being read; where pages are
  // evicted, others are copied a few at a time: they are never charged twice.
  virtual PageCount relocate(Run from, PageId to) = 0;

  // The same for pages that nobody owns any more: what is resident of the source's runs becomes the first pages of `to`,
  // which were provided and never touched since they were last purged. The number of pages of `to` that have come so;
  // less than all when the source has no more, or where pages cannot move.
  virtual PageCount recycle(DirtySource& source, Run to) = 0;

  // Fills pages that were provided with zeros; what was evicted is dropped, not read.
  virtual void zero(Run run) = 0;

  // Makes pages inaccessible that belong to the caller, but are not provided: touching them raises SIGSEGV. Their
  // contents are dropped, and not charged any more. False where the kernel does not offer that, or not here: some of
  // them may be inaccessible all the same.
  virtual bool guard(Run run) = 0;
  // Accessible again; before the pages are given away or provided. Whether all of them were inaccessible.
  virtual bool unguard(Run run) = 0;

  // Whether pages that were provided may be in the store by now, or lost: who keeps them must not use them for something
  // else without providing them anew. Once true it stays.
  virtual bool may_evict() const = 0;
  // Whether that is so and there is still a limit: heaps keep less cached then.
  virtual bool under_pressure() const = 0;

 protected:
  ~Backing() = default;
};

}  // namespace polder
