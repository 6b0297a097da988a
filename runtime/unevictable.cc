#include "runtime/unevictable.h"

#include <pthread.h>
#include <cstdint>

#include "base/fatal.h"
#include "runtime/dynamic_linker.h"
#include "runtime/instance.h"

namespace polder::runtime {
namespace {

constexpr std::uint32_t kInUse = 0x504f4c44;  // "POLD"
constexpr std::uint32_t kFreed = 0x66726565;  // "free"

// Directly before the payload. The tag is last, where a free pool object keeps no list link.
struct Header {
  std::uint64_t object_size;  // as asked of the pool
  std::uint32_t distance;     // from the pool object's start to the payload
  std::uint32_t tag;
};
static_assert(sizeof(Header) == 16);

Header* header_of(const void* pointer) {
  return reinterpret_cast<Header*>(reinterpret_cast<std::uintptr_t>(pointer) - sizeof(Header));
}

Header& require(const char* operation, const void* pointer) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % sizeof(Header) != 0) report_foreign_pointer(operation, pointer);
  if (!is_unevictable(header_of(pointer))) report_foreign_pointer(operation, pointer);
  Header& header = *header_of(pointer);
  if (header.tag == kFreed) report_double_free(pointer);
  if (header.tag != kInUse) report_foreign_pointer(operation, pointer);
  return header;
}

}  // namespace

void* allocate_unevictable(std::size_t size, std::size_t alignment) {
  constexpr std::size_t kLargest = std::size_t{1} << 20;  // the pool's
  if (size > kLargest || alignment > kLargest) return nullptr;
  const std::size_t object_size = size + sizeof(Header) + (alignment > sizeof(Header) ? alignment : 0);
  if (object_size > kLargest) return nullptr;
  void* const object = start_manager().unevictable().allocate(object_size);
  if (object == nullptr) return nullptr;
  const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(object);
  const std::uintptr_t payload = (start + sizeof(Header) + alignment - 1) & ~(std::uintptr_t{alignment} - 1);
  void* const pointer = reinterpret_cast<void*>(payload);
  *header_of(pointer) = {
      .object_size = object_size, .distance = static_cast<std::uint32_t>(payload - start), .tag = kInUse};
  return pointer;
}

bool is_unevictable(const void* pointer) { return manager_runs() && running_manager().unevictable().contains(pointer); }

void free_unevictable(void* pointer) {
  Header& header = require("free", pointer);
  const std::size_t object_size = header.object_size;
  void* const object = static_cast<char*>(pointer) - header.distance;
  header.tag = kFreed;
  running_manager().unevictable().free(object, object_size);
}

std::size_t usable_size_unevictable(const char* operation, const void* pointer) {
  const Header& header = require(operation, pointer);
  return header.object_size - header.distance;
}

bool called_by_the_c_library(const void* caller) {
  const struct link_map* const object = object_of(caller);
  if (object == nullptr || object != c_library_object()) return false;
  const bool linked_statically = object->l_name == nullptr || object->l_name[0] == '\0';
  if (!linked_statically) return true;
  // Then everything is one object, and the function that makes these blocks is told by its place.
  constexpr std::uintptr_t kFunctionSize = 1024;
  const auto function = reinterpret_cast<std::uintptr_t>(&pthread_setspecific);
  return reinterpret_cast<std::uintptr_t>(caller) - function < kFunctionSize;
}

}  // namespace polder::runtime
