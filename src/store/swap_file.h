// One swap file: a nameless sparse file and the table of its slots. Slot s lies at offset s * kPageSize.
//
//   own       this process made it and allocates in it
//   foreign   a forked child inherited it: it reads and releases (in its private copy of the counts), never allocates.
//             `lifeline` is the write end of a pipe that tells the owner that somebody may still read; it goes with
//             the file to further children and closes with the last of them
//
// Descriptors belong to the descriptor table of the service threads. Threads as in slot_table.h; descriptor(), offset()
// and is_direct() from any thread that holds a reference to a slot.
#pragma once

#include <cstdint>

#include "base/errno.h"
#include "base/units.h"
#include "store/slot_table.h"

namespace polder {

class SwapFile {
 public:
  enum class Role : unsigned char { none, own, foreign };

  SwapFile() = default;
  ~SwapFile() { close(); }
  SwapFile(const SwapFile&) = delete;
  SwapFile& operator=(const SwapFile&) = delete;

  // Makes the file in the directory with at most `bytes` of slots; 0: the free space less 5 %, or as much of it as there
  // is address space for. The error of open_temporary(); ENOSPC when there is not room for one cluster; EINVAL when
  // `bytes` is less than one; ENOMEM.
  Errno create(int directory, std::uint64_t bytes, Budget& budget);
  // Closes the descriptors and gives all state back.
  void close();
  // Forked child: the file is the parent's, known here by these descriptors.
  void become_foreign(int descriptor, int lifeline);
  // Forked child: the file is not inherited; its descriptors do not exist here.
  void forget();

  // Consecutive free slots as SlotTable::allocate() finds them, with disk blocks as far as the disk has any. Files grow by
  // stretches: a write that allocates shuts out every reader of the file (ext4 and xfs lock the inode), measured as reads
  // of 5 ms.
  SlotTable::Span allocate(std::uint32_t wanted);

  // Drops the disk blocks and hashes of at most `count` wholly free sections. Returns how many were dropped.
  unsigned punch_free(unsigned count);

  Role role() const { return role_; }
  int descriptor() const { return descriptor_; }
  int lifeline() const { return lifeline_; }
  bool is_direct() const { return direct_; }
  static std::uint64_t offset(std::uint32_t slot) { return std::uint64_t{slot} * kPageSize; }

  SlotTable& slots() { return slots_; }
  const SlotTable& slots() const { return slots_; }

 private:
  Role role_ = Role::none;
  bool direct_ = false;
  bool punchable_ = true;         // false once the filesystem refused
  bool allocatable_ = true;       // likewise
  std::uint32_t backed_end_ = 0;  // slots below it have been given disk blocks
  int descriptor_ = -1;
  int lifeline_ = -1;
  SlotTable slots_;
};

}  // namespace polder
