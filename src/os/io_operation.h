// One transfer on its way, and the fixed table of them that an engine owns. Used by the engines only.
#pragma once

#include <sys/uio.h>
#include <cstddef>
#include <cstdint>

#include "base/errno.h"

namespace polder::os {

// Refusals of the kernel that pass: no memory for requests just now, completions to be taken first, a signal. `result` is
// a negated errno value.
bool passes(long result);

enum class IoDirection : unsigned char { read, write };

struct IoOperation {
  static constexpr unsigned kMaxVectors = 64;
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  std::uint64_t tag;
  std::uint64_t offset;
  const iovec* vectors;  // the submitter's, or `rest` after a short transfer
  unsigned count;
  int fd;
  IoDirection direction;
  Errno error;         // the outcome, once finished
  std::uint32_t next;  // in the list that holds it
  iovec rest[kMaxVectors];

  // Takes note of what one call transferred (bytes, or a negated errno value). True when the operation has ended.
  bool advance(long result);
};

// A list of table entries, first in first out.
struct IoList {
  std::uint32_t first = IoOperation::kNone;
  std::uint32_t last = IoOperation::kNone;

  bool empty() const { return first == IoOperation::kNone; }
};

// Entries are reused last in first out: memory is touched for as many as were ever outstanding at once.
class IoTable {
 public:
  IoTable() = default;
  ~IoTable();
  IoTable(const IoTable&) = delete;
  IoTable& operator=(const IoTable&) = delete;

  // ENOMEM.
  Errno init(unsigned depth);

  // A free entry, filled in. Asserts that there is one and that the vectors are few enough.
  std::uint32_t take(IoDirection direction, int fd, const iovec* vectors, unsigned count, std::uint64_t offset,
                     std::uint64_t tag);
  void give_back(std::uint32_t index);

  IoOperation& operator[](std::uint32_t index) const { return operations_[index]; }
  unsigned taken() const { return taken_; }

  void append(IoList& list, std::uint32_t index) const;
  std::uint32_t remove_first(IoList& list) const;

 private:
  IoOperation* operations_ = nullptr;  // immutable after init, as is depth_
  unsigned depth_ = 0;
  unsigned taken_ = 0;
  unsigned used_ = 0;  // entries beyond were never taken
  std::uint32_t free_ = IoOperation::kNone;
};

}  // namespace polder::os
