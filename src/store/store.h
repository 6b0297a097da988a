// Where the bytes of non-resident pages live. The pager names a place by its Location; the store says which file and
// offset that is, keeps its reference count and its hash, and decides where the next victims go. It transfers nothing
// itself: reads and writes are the pager's, through os::IoEngine.
//
// Who calls: the reclaimer (the one thread that holds LockRank::reclaim) everything; the pager and application threads
// only what is marked "any thread": lock-free, no system call, never waits.
//
// The life of a stored page:
//   1. reclaimer  same_filled(page)? store_pattern(word), and step 5
//   2. reclaimer  run = allocate_slots(n); every slot has one reference, the run's
//   3. reclaimer  writes the run at offset(run[0]) to fd(run[0]); on an error abandon(run, error)
//   4. reclaimer  commit(run[i], hash) for every page; pages stolen back meanwhile: abandon(run[i])
//   5. reclaimer  publishes the Location in the page word (release), which takes the reference over
//   6. any        reads offset(location), compares matches(location, page)
//   7. any        release(location) when the page word no longer names it and no transfer is under way
//
// Fork. The child shares the parent's slots: it inherits the files as foreign ones, and the parent keeps the slots that
// were used at the fork out of circulation until the child and its descendants have closed the lifeline. With the
// reclaim lock held throughout:
//   1. parent, service thread  hold_for_child(); fds = inherited_descriptors(), copied into the forking thread's table
//   2. fork
//   3. parent, service thread  end_fork(outcome); later, now and then, release_finished_holds()
//   4. child, its only thread  become_child(the copies, same order); begin_recount() and recount(location) for every
//                              page word that names one, because other threads of the parent may have been amid
//                              release() while memory was copied
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "base/errno.h"
#include "base/units.h"
#include "store/location.h"
#include "store/page_hash.h"
#include "store/pattern_table.h"
#include "store/swap_file.h"

namespace polder {

class Budget;

class Store {
 public:
  struct Options {
    const char* swap_directory = nullptr;  // needed during open() only
    std::uint64_t swap_bytes = 0;          // capacity of the swap file; 0: free space less 5 % when it is made
  };

  // The directory handle and, for each file, its descriptor and its lifeline.
  static constexpr unsigned kMaxInherited = 1 + 2 * Location::kFileCount;

  // All state is charged to `budget`, which outlives the store.
  explicit Store(Budget& budget) : budget_(budget), patterns_(budget) {}
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Opens the directory; the swap file is made by the first allocate_slots(). ENOENT, ENOTDIR, EACCES … as met. Call on
  // a service thread after it has taken its private descriptor table.
  Errno open(const Options& options);
  bool is_open() const { return directory_ >= 0; }

  // Whether a swap file can be made in the directory, by making one; the bytes free there. For start-up checks.
  static Result<std::uint64_t> probe(const char* directory);

  // --- reclaimer only ---

  // The place of a same-filled page, with one reference. Empty when the table is full: store it as any other page.
  std::optional<Location> store_pattern(std::uint64_t word);

  // At most `wanted` consecutive slots. Count 0: full() is true from now on and swap_error() says why (ENOSPC: no slots
  // left; else what making the file met). Makes the file at the first call.
  SlotRun allocate_slots(unsigned wanted);
  // The slots were not written. ENOSPC, EDQUOT, EFBIG: the disk is full, only slots that have blocks already are handed
  // out until retry_swap(). EIO: the slots are not used until then. Anything else, kOk included (stolen back before the
  // write, cancelled): they are free again.
  void abandon(const SlotRun& run, Errno why = kOk);
  void abandon(Location location, Errno why = kOk);
  // The slot was written: records its hash. Before the location is published.
  void commit(Location location, const PageHash& hash);

  Errno swap_error() const { return swap_error_; }
  // Forgets a failed creation, a full disk and bad slots, so that the next allocate_slots() tries again. The caller
  // paces this.
  void retry_swap();

  // Idle work: drops disk blocks and hashes of at most `sections` MiB of wholly free file; the number dropped. Closes
  // foreign files without references.
  unsigned punch_free(unsigned sections);
  void close_unreferenced_files();

  // --- any thread ---

  enum class Kind : unsigned char { pattern, swap };
  static Kind kind(Location location) { return location.is_pattern() ? Kind::pattern : Kind::swap; }

  // The caller holds a reference already.
  void reference(Location location);
  void release(Location location);

  // What follows needs a reference held by the caller or by a page word that cannot change meanwhile. The reclaimer may
  // ask for the hash of a slot that is being released: nobody else can give it a new owner.
  std::uint64_t pattern(Location location) const;
  PageHash hash(Location location) const;
  bool matches(Location location, const void* page) const { return hash(location) == hash_page(page); }
  int fd(Location location) const;
  static std::uint64_t offset(Location location) { return SwapFile::offset(location.slot()); }

  // The last allocation found nothing.
  bool full() const { return full_.load(std::memory_order_relaxed); }
  // About how many more pages can be written; very many before there is a file.
  std::uint64_t room() const;

  // --- fork; the reclaim lock is held from hold_for_child() to end_fork() or become_child() ---

  // ENOMEM, EMFILE, ENFILE: the child could not be given its pages, nothing changed.
  Errno hold_for_child();
  // The descriptors that the child needs, in an order that become_child() understands; how many. `fds` has room for
  // kMaxInherited. 0 when the store is not open.
  unsigned inherited_descriptors(int* fds) const;
  enum class ForkOutcome : unsigned char { forked, failed };
  void end_fork(ForkOutcome outcome);
  // Gives back the slots held for children that are gone; how many children. One poll(2) per living child.
  unsigned release_finished_holds();

  // `fds`: the child's copies, which the store owns from now on.
  void become_child(const int* fds, unsigned count);
  void begin_recount();
  void recount(Location location);

  // --- reports; reclaimer only ---

  struct Statistics {
    std::uint64_t capacity = 0;     // slots of the own file
    std::uint64_t used = 0;         // slots with references, all files
    std::uint64_t frontier = 0;     // slots of the own file ever used
    std::uint64_t bad = 0;          // slots not used after EIO
    std::uint64_t patterns = 0;     // distinct words of same-filled pages
    std::uint64_t same_filled = 0;  // pages stored as a word
    std::uint64_t holds = 0;        // children that may read our slots
    std::uint64_t files = 0;        // open swap files
    PageCount metadata;             // charged for slots and holds
    bool direct = false;            // the own file bypasses the page cache
    bool disk_full = false;         // only slots that have blocks already are handed out
  };
  Statistics statistics() const;
  // Walks everything and checks the invariants. No other thread may be inside the store.
  void verify() const;

 private:
  static constexpr unsigned kNoFile = Location::kFileCount;

  SwapFile& file(Location location);
  const SwapFile& file(Location location) const;
  Errno make_own_file();

  Budget& budget_;
  PatternTable patterns_;
  SwapFile files_[Location::kFileCount];

  // Reclaimer only.
  int directory_ = -1;
  std::uint64_t swap_bytes_ = 0;
  unsigned own_ = kNoFile;
  std::atomic<const SlotTable*> own_slots_{nullptr};  // of the own file; release with its capacity, acquire in room()
  Errno swap_error_;
  Errno creation_error_;              // sticky until retry_swap()
  SlotHold* pending_hold_ = nullptr;  // of the fork under way
  int pending_lifeline_ = -1;         // write end for the child of the fork under way
  unsigned inherited_files_ = 0;      // bit per file that the child of the fork under way gets

  std::atomic<bool> full_{false};                 // atomic, both: allocating threads ask
  std::atomic<std::uint64_t> used_when_full_{0};  // slots
};

}  // namespace polder
