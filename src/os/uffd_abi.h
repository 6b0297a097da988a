// The kernel's userfaultfd interface (include/uapi/linux/userfaultfd.h), as of 6.18. Our own definitions: the headers of
// the build machine may be years older than the kernel that runs the library.
#pragma once

#include <sys/ioctl.h>
#include <cstdint>

namespace polder::os::uffd {

constexpr std::uint64_t kApiVersion = 0xAA;

// Flag of the system call: faults from inside the kernel are not delivered. Needs no privilege.
constexpr int kUserModeOnly = 1;

// Feature bits of UFFDIO_API.
constexpr std::uint64_t kFeatureThreadId = std::uint64_t{1} << 8;
constexpr std::uint64_t kFeatureExactAddress = std::uint64_t{1} << 11;
constexpr std::uint64_t kFeaturePoison = std::uint64_t{1} << 14;
constexpr std::uint64_t kFeatureMove = std::uint64_t{1} << 16;

struct Api {
  std::uint64_t api;
  std::uint64_t features;
  std::uint64_t ioctls;
};

struct Range {
  std::uint64_t start;
  std::uint64_t length;
};

struct Register {
  Range range;
  std::uint64_t mode;
  std::uint64_t ioctls;
};
constexpr std::uint64_t kRegisterMissing = 1;

struct Copy {
  std::uint64_t destination;
  std::uint64_t source;
  std::uint64_t length;
  std::uint64_t mode;
  std::int64_t copied;
};
constexpr std::uint64_t kCopyDontWake = 1;

struct Move {
  std::uint64_t destination;
  std::uint64_t source;
  std::uint64_t length;
  std::uint64_t mode;
  std::int64_t moved;
};
constexpr std::uint64_t kMoveDontWake = 1;
constexpr std::uint64_t kMoveAllowSourceHoles = 2;

struct Poison {
  Range range;
  std::uint64_t mode;
  std::int64_t updated;
};

constexpr std::uint8_t kEventPagefault = 0x12;
constexpr std::uint64_t kPagefaultWrite = 1;

struct Message {
  std::uint8_t event;
  std::uint8_t reserved1;
  std::uint16_t reserved2;
  std::uint32_t reserved3;
  // Of a page fault; other events use the same 24 bytes.
  std::uint64_t flags;
  std::uint64_t address;
  std::uint32_t thread;
  std::uint32_t unused;
};

static_assert(sizeof(Api) == 24 && sizeof(Range) == 16 && sizeof(Register) == 32 && sizeof(Copy) == 40 &&
              sizeof(Move) == 40 && sizeof(Poison) == 32 && sizeof(Message) == 32);

constexpr unsigned long kIoctlNew = _IO(0xAA, 0x00);  // on /dev/userfaultfd
constexpr unsigned long kIoctlApi = _IOWR(0xAA, 0x3F, Api);
constexpr unsigned long kIoctlRegister = _IOWR(0xAA, 0x00, Register);
constexpr unsigned long kIoctlUnregister = _IOR(0xAA, 0x01, Range);
constexpr unsigned long kIoctlWake = _IOR(0xAA, 0x02, Range);
constexpr unsigned long kIoctlCopy = _IOWR(0xAA, 0x03, Copy);
constexpr unsigned long kIoctlMove = _IOWR(0xAA, 0x05, Move);
constexpr unsigned long kIoctlPoison = _IOWR(0xAA, 0x08, Poison);

}  // namespace polder::os::uffd
