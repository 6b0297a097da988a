#include "os/io_operation.h"

#include <cerrno>

#include "base/check.h"
#include "base/units.h"
#include "os/mapping.h"

namespace polder::os {
namespace {

std::size_t table_size(unsigned depth) { return (depth * sizeof(IoOperation) + kPageSize - 1) & ~(kPageSize - 1); }

}  // namespace

bool passes(long result) {
  return result == -EAGAIN || result == -EBUSY || result == -EINTR || result == -ENOMEM || result == -ETIME;
}

bool IoOperation::advance(long result) {
  if (result == -EINTR || result == -EAGAIN) return false;
  if (result <= 0) {
    // Nothing transferred: the end of the file, or a device that takes no more.
    error = Errno(result < 0 ? static_cast<int>(-result) : EIO);
    return true;
  }
  auto left = static_cast<std::size_t>(result);
  offset += left;
  while (count != 0 && left >= vectors->iov_len) {
    left -= vectors->iov_len;
    ++vectors;
    --count;
  }
  if (count == 0) {
    POLDER_CHECK(left == 0, "the kernel transferred more than it was asked to", left);
    error = kOk;
    return true;
  }
  for (unsigned i = 0; i < count; ++i) rest[i] = vectors[i];  // forwards: the source may be further up in `rest`
  rest[0].iov_base = static_cast<char*>(rest[0].iov_base) + left;
  rest[0].iov_len -= left;
  vectors = rest;
  return false;
}

IoTable::~IoTable() {
  if (operations_ != nullptr) release(operations_, table_size(depth_));
}

Errno IoTable::init(unsigned depth) {
  POLDER_CHECK(operations_ == nullptr && depth != 0, "I/O table", depth);
  const Result<char*> memory = map_private(table_size(depth));
  if (!memory.ok()) return memory.error;
  operations_ = reinterpret_cast<IoOperation*>(memory.value);
  depth_ = depth;
  return kOk;
}

std::uint32_t IoTable::take(IoDirection direction, int fd, const iovec* vectors, unsigned count, std::uint64_t offset,
                            std::uint64_t tag) {
  POLDER_CHECK(count != 0 && count <= IoOperation::kMaxVectors, "I/O with too many vectors", count);
  POLDER_CHECK(taken_ < depth_, "more I/O than the engine's depth", taken_, depth_);
  std::uint32_t index = free_;
  if (index != IoOperation::kNone) {
    free_ = operations_[index].next;
  } else {
    index = used_++;
  }
  ++taken_;
  IoOperation& operation = operations_[index];
  operation.tag = tag;
  operation.offset = offset;
  operation.vectors = vectors;
  operation.count = count;
  operation.fd = fd;
  operation.direction = direction;
  operation.error = kOk;
  operation.next = IoOperation::kNone;
  return index;
}

void IoTable::give_back(std::uint32_t index) {
  POLDER_CHECK(index < used_ && taken_ != 0, "I/O entry", index);
  operations_[index].next = free_;
  free_ = index;
  --taken_;
}

void IoTable::append(IoList& list, std::uint32_t index) const {
  operations_[index].next = IoOperation::kNone;
  if (list.empty()) {
    list.first = index;
  } else {
    operations_[list.last].next = index;
  }
  list.last = index;
}

std::uint32_t IoTable::remove_first(IoList& list) const {
  const std::uint32_t index = list.first;
  list.first = operations_[index].next;
  if (list.empty()) list.last = IoOperation::kNone;
  return index;
}

}  // namespace polder::os
