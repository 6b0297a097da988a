#include "runtime/c_interface.h"

namespace polder::runtime {

void* plain_slow(std::size_t size) { return or_no_memory(allocate_slow(size)); }

void* resized(void* pointer, std::size_t size) {
  if (pointer == nullptr) return or_no_memory(allocate(size));
  if (size == 0) {
    release(pointer);
    return nullptr;
  }
  return or_no_memory(reallocate(pointer, size));
}

void* resized_array(void* pointer, std::size_t count, std::size_t size) {
  std::size_t total;
  if (__builtin_mul_overflow(count, size, &total)) return or_no_memory(nullptr);
  return resized(pointer, total);
}

void* aligned(std::size_t alignment, std::size_t size) {
  if (alignment <= kDefaultAlignment) return or_no_memory(allocate(size));
  return or_no_memory(allocate_aligned(size, alignment));
}

void* aligned_up(std::size_t alignment, std::size_t size) {
  constexpr std::size_t kLargestPower = SIZE_MAX / 2 + 1;
  if (alignment > kLargestPower) {
    errno = EINVAL;
    return nullptr;
  }
  std::size_t power = kDefaultAlignment;
  while (power < alignment) power <<= 1;
  return aligned(power, size);
}

int aligned_into(void** result, std::size_t alignment, std::size_t size) {
  if (alignment % sizeof(void*) != 0 || !is_power_of_two(alignment)) return EINVAL;
  void* const pointer = alignment <= kDefaultAlignment ? allocate(size) : allocate_aligned(size, alignment);
  if (pointer == nullptr) return ENOMEM;
  *result = pointer;
  return 0;
}

void* whole_pages(std::size_t size) {
  std::size_t padded;
  if (__builtin_add_overflow(size, kPageSize - 1, &padded)) return or_no_memory(nullptr);
  return aligned(kPageSize, padded & ~(kPageSize - 1));
}

void release_sized(const char* operation, void* pointer, std::size_t alignment, std::size_t size) {
  if (pointer == nullptr) return;
  const std::size_t usable = usable_size(pointer);
  if (size > usable) report_wrong_size(operation, pointer, size, usable);
  if (is_power_of_two(alignment) && reinterpret_cast<std::uintptr_t>(pointer) % alignment != 0) {
    report_wrong_alignment(operation, pointer, alignment);
  }
  release(pointer);
}

}  // namespace polder::runtime
