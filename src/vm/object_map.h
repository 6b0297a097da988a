// What the heap knows of an address, for the pager: with one page of an object the others are wanted too.
#pragma once

#include "vm/run.h"

namespace polder {

class ObjectMap {
 public:
  // The pages of the object that the address is in, at most `most` of them, with the one of the address; that page alone
  // where no object is known. A hint: objects may come and go meanwhile. Any thread, without a lock; touches no memory
  // that is managed.
  virtual Run pages_of_object(const void* address, PageCount most) const = 0;

 protected:
  ~ObjectMap() = default;
};

}  // namespace polder
