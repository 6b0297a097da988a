// Reserved address space for tests of what lies in metadata.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>

#include "os/mapping.h"
#include "os/thread.h"
#include "vm/metadata.h"

namespace polder {

// Fatal reports reach standard error, where death tests look for them.
inline const bool kSinkInstalled = (os::install_message_sink(), true);

class Reservation {
 public:
  explicit Reservation(std::size_t size) : size_((size + kPageSize - 1) & ~(kPageSize - 1)) {
    const Result<char*> range = os::reserve(size_, kPageSize);
    EXPECT_TRUE(range.ok());
    base_ = range.value;
  }
  ~Reservation() { os::release(base_, size_); }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  char* base() const { return base_; }
  std::size_t size() const { return size_; }
  MetadataSpace space() const { return {base_, size_}; }

 private:
  std::size_t size_;
  char* base_;
};

}  // namespace polder
