// A thread's own free objects: one magazine (array of pointers) per size class, in front of the central lists. Owned by
// one thread, never locked; memory comes from MetadataPool. malloc and free are a table look-up and an array push or
// pop here; no object is touched and nothing is atomic.
//
//   magazine        slots:  | null | object | object | … | unused … |
//                             ^base             ^top                ^limit
//   empty           *top is the null sentinel, so a pop needs no comparison with the base
//   full            top == limit
//   no storage      top == limit == a shared null slot: pops and pushes both miss
//
// Magazines are indexed by the byte that the granule map keeps for an address, so the magazines of bytes that are not a
// size class (never used, large run …) exist and always miss. That is the free path's only test of where a pointer leads.
//
// A thread that frees objects of a class of which it never allocated one got them from another thread. The first few go
// into an outgoing buffer and from there to the central lists: reused, they would make it write to cache lines that the
// other thread has neighbours in (E. Berger et al., "Hoard", ASPLOS 2000: passive false sharing).
//
//   outgoing        | object | object | null … | null |      pops find null, pushes find it full
//                                               ^top == limit
//
// A cache that has room for little only, because its thread did little, is handed over to the next thread with what is in
// it: a thread that is started for a small task then needs one lock when it begins and one when it ends. A magazine that it
// took over and never allocated from itself refuses what it frees: that goes to an outgoing buffer.
//
// Source: J. Bonwick, J. Adams, "Magazines and Vmem" (USENIX 2001).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/units.h"
#include "heap/granule_map.h"
#include "heap/size_class.h"
#include "heap/span_cache.h"

namespace polder {

class MetadataPool;

class alignas(64) ThreadCache {
 public:
  // What a thread without a cache of its own points to: constant, every magazine misses, so that the fast paths need
  // no test for null. The slow paths recognise it and work without a cache.
  static constexpr ThreadCache* empty() { return const_cast<ThreadCache*>(&kEmpty); }

  // The whole of malloc when it hits; null when the magazine is empty. Precondition: size <= kLargestSmall.
  void* try_allocate(std::size_t size) {
    // The table gives the magazine's place, which spares malloc to scale an index.
    char* const magazines = reinterpret_cast<char*>(magazines_);
    return pop(*reinterpret_cast<Magazine*>(magazines + kMagazineBySize[(size + 15) / 16]));
  }
  void* try_allocate(SizeClass size_class) { return pop(magazines_[size_class.index]); }

  // The whole of free when it hits. False when the magazine is full, and for everything that is suspicious: not a slab,
  // not the start of an object, the same pointer as the last one freed (verify builds: any in the magazine).
  bool try_free(GranuleKind kind, void* pointer) {
    Magazine& magazine = magazines_[static_cast<std::size_t>(kind)];
    void** const top = magazine.top;
    if (top == magazine.limit || *top == pointer) [[unlikely]]
      return false;
    const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(pointer) & magazine.offset_mask;
    if (!is_object_start(offset, magazine.start_test, magazine.start_limit)) [[unlikely]]
      return false;
    if (kVerifyBuild && is_freed_twice(kind, pointer)) return false;
    top[1] = pointer;
    magazine.top = top + 1;
    return true;
  }

  // For the heap's slow paths; not for the empty cache.

  static ThreadCache* create(MetadataPool& pool);  // null without memory
  void destroy(MetadataPool& pool);                // every magazine is empty

  // Objects that wait to go back to the central lists.
  static constexpr unsigned kFirstCapacity = 7;  // a cache line with the null
  using Outgoing = std::array<void*, kFirstCapacity>;
  // Takes an object of a class that the thread never allocated from; false when it did, when the buffer is full, or
  // without memory for it.
  bool put_outgoing(MetadataPool& pool, SizeClass size_class, void* pointer);
  // Makes the buffer, if there is one, an empty magazine. The number of objects it held.
  unsigned end_outgoing(SizeClass size_class, Outgoing& objects);

  // Of the magazine; both 0 while there is only an outgoing buffer.
  unsigned count(SizeClass size_class) const;
  unsigned capacity(SizeClass size_class) const { return is_outgoing(size_class) ? 0 : capacity_[size_class.index]; }
  // Doubles the magazine's room, at most to `most` objects; unchanged when the pool has no memory.
  void grow(MetadataPool& pool, SizeClass size_class, unsigned most);
  // The same for a magazine that is empty, and to more than that when it was full since it was empty last: the thread
  // allocates and frees more at a time than there is room for. For all such classes together kSpareBytes of objects.
  static constexpr std::uint32_t kSpareBytes = 64 << 10;
  void grow_empty(MetadataPool& pool, SizeClass size_class, unsigned most);
  void note_full(SizeClass size_class) { was_full_ |= bit_of(size_class); }
  bool is_stretched(SizeClass size_class) const { return (stretched_ & bit_of(size_class)) != 0; }
  // An empty magazine gives back what it has of these bytes.
  void shrink_empty(MetadataPool& pool, SizeClass size_class);
  // An empty magazine has room for `most` objects from then on; unchanged when the pool has no memory.
  void limit_empty(MetadataPool& pool, SizeClass size_class, unsigned most) {
    set_capacity(pool, size_class, most, Room::usual);
  }
  // Where the next `capacity - count` objects go. After writing n of them there, commit with push(n): the first of
  // them will be the first to be popped.
  void** room(SizeClass size_class) { return magazines_[size_class.index].top + 1; }
  void push(SizeClass size_class, unsigned added);
  // The oldest objects of the magazine, and their removal.
  void* const* oldest(SizeClass size_class) const { return base(size_class) + 1; }
  void drop_oldest(SizeClass size_class, unsigned dropped);

  // When its thread ends and the next one gets the cache as it is, outgoing buffers included: every magazine refuses frees
  // until it is claimed.
  void hand_over();
  bool is_handed_over(SizeClass size_class) const { return (handed_over_ & bit_of(size_class)) != 0; }
  // Makes the magazine the thread's own. False, and nothing is done, when the thread has not allocated from it so far: then
  // it holds as many objects as at the hand-over, less those that drop_oldest() took.
  bool claim_used(SizeClass size_class);
  void claim(SizeClass size_class);
  // Takes an empty magazine's storage away.
  void remove_empty(MetadataPool& pool, SizeClass size_class);
  // Of objects, in all magazines and outgoing buffers together.
  std::size_t bytes_of_room() const;

  // Null as long as create_spans() was not called, or had no memory.
  SpanCache* spans() const { return spans_; }
  SpanCache* create_spans(MetadataPool& pool);

  // Classes that have a magazine or an outgoing buffer: a bit for each index, less one.
  std::uint64_t present() const { return present_; }

  // Notes that the class's magazine was empty or full, and that as many objects came or went. True once in a while: time to
  // sweep.
  bool note_use(SizeClass size_class, unsigned objects);
  bool note_use(PageCount pages);  // of anything
  // Classes whose magazines hold something, or have more room than usual, and were neither empty, nor full, nor of another
  // count since the last call, as present().
  std::uint64_t idle_classes();

  // Whether the pointer is in the outgoing buffer, or was freed last (where the magazine was handed over and in verify
  // builds: is anywhere in it). Another one that is in the magazine twice is found when it leaves it.
  bool is_freed_twice(GranuleKind kind, const void* pointer) const;

 private:
  static constexpr std::uint64_t bit_of(SizeClass size_class) { return std::uint64_t{1} << (size_class.index - 1U); }

  friend class Heap;  // for the list of caches

  struct Magazine {
    void** top = nullptr;
    void** limit = nullptr;
    std::uint64_t start_test = 0;   // of the class
    std::uint32_t start_limit = 0;  // of the class; 0 for kinds without objects: nothing passes
    std::uint32_t offset_mask = 0;  // offset of an address in its slab
  };

  using MagazineBySize = std::array<std::uint16_t, kLargestSmall / 16 + 1>;
  static constexpr MagazineBySize make_magazine_by_size() {
    MagazineBySize table{};
    for (std::size_t unit = 0; unit < table.size(); ++unit) {
      table[unit] = static_cast<std::uint16_t>(size_class_for(unit * 16).index * sizeof(Magazine));
    }
    return table;
  }

  static void* pop(Magazine& magazine) {
    void* const object = *magazine.top;
    if (object != nullptr) [[likely]]
      --magazine.top;
    return object;
  }

  constexpr ThreadCache();

  // Stands in place of a capacity.
  static constexpr std::uint16_t kOutgoing = UINT16_MAX;

  enum class Room : unsigned char { usual, stretched };
  void set_capacity(MetadataPool& pool, SizeClass size_class, unsigned capacity, Room room);
  // Bytes of objects beyond what every thread may keep: with that capacity, and taken from the spare ones now.
  static std::uint32_t spare_of(SizeClass size_class, unsigned capacity);
  std::uint32_t spare_taken(SizeClass size_class) const;

  bool is_outgoing(SizeClass size_class) const { return capacity_[size_class.index] == kOutgoing; }
  void** outgoing(SizeClass size_class) const { return magazines_[size_class.index].limit - kFirstCapacity; }
  void** base(SizeClass size_class) const { return magazines_[size_class.index].limit - capacity_[size_class.index]; }
  static const ThreadCache kEmpty;
  static const MagazineBySize kMagazineBySize;  // offset of its magazine by size in units of 16 bytes, rounded up

  Magazine magazines_[kGranuleKindCount] = {};       // first: two to a cache line
  std::uint16_t capacity_[kGranuleKindCount] = {};   // objects between base and limit
  std::uint16_t swept_count_[kSizeClassCount] = {};  // objects at the last sweep or hand-over, by class index - 1
  std::uint64_t present_ = 0;
  std::uint64_t used_ = 0;         // classes noted since, as present()
  std::uint64_t was_full_ = 0;     // since they were empty, as present()
  std::uint64_t stretched_ = 0;    // with room from the spare bytes, as present()
  std::uint64_t handed_over_ = 0;  // not claimed yet, as present()
  SpanCache* spans_ = nullptr;
  std::uint32_t spare_bytes_ = kSpareBytes;
  std::uint32_t uses_ = 0;       // since the last sweep
  ThreadCache* next_ = nullptr;  // Heap's list, guarded by its caches mutex
  ThreadCache* previous_ = nullptr;
};

alignas(64) inline constexpr ThreadCache::MagazineBySize ThreadCache::kMagazineBySize = make_magazine_by_size();

}  // namespace polder
