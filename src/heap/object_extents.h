// How far an object reaches, found from any address in it: for the pager.
#pragma once

#include "heap/granule_map.h"
#include "heap/spans.h"
#include "vm/object_map.h"

namespace polder {

class ObjectExtents final : public ObjectMap {
 public:
  explicit ObjectExtents(const GranuleMap& map) : map_(map) {}

  // Small objects and spans; of large runs no end is known from within.
  Run pages_of_object(const void* address, PageCount most) const override;

 private:
  Run in_slab(const void* address, SizeClass size_class) const;
  Run in_block(const void* address, const SpanUnit& unit, PageCount most) const;

  const GranuleMap& map_;
};

}  // namespace polder
