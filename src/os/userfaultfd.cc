#include "os/userfaultfd.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <atomic>

#include "base/check.h"
#include "base/units.h"
#include "os/mapping.h"
#include "os/syscall.h"
#include "os/uffd_abi.h"

namespace polder::os {
namespace {

// A page that another cpu migrates or locks, or mappings in change, answer EAGAIN: that lasts microseconds, so try at
// once, then let others run. A page that is still busy after that many turns counts as pinned.
constexpr unsigned kEagerTries = 16;
constexpr unsigned kMoveTries = 256;

bool page_aligned(const void* address, std::size_t size) {
  return size != 0 && (reinterpret_cast<std::uintptr_t>(address) | size) % kPageSize == 0;
}

bool falls_through(long result) {
  return result == -EACCES || result == -EPERM || result == -ENOSYS || result == -ENOENT || result == -ENXIO ||
         result == -ENODEV || result == -ENOTTY;
}

// A variable, not a text, as in pagemap.cc.
constexpr char kPath[] = "/dev/userfaultfd";

// A descriptor before its UFFDIO_API, from whichever door opens; negated errno when none does.
long open_raw() {
  const long device = uninterrupted_call(SYS_openat, AT_FDCWD, kPath, O_RDWR | O_CLOEXEC, 0);
  long result = device;
  if (device >= 0) {
    result = system_call(SYS_ioctl, device, uffd::kIoctlNew, O_CLOEXEC | O_NONBLOCK);
    static_cast<void>(system_call(SYS_close, device));
    if (result >= 0) return result;
  }
  if (!falls_through(result)) return result;
  return system_call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

// Reads the decimal number at the cursor and steps over it and one separator.
int next_number(const char*& cursor) {
  int value = 0;
  while (*cursor >= '0' && *cursor <= '9') value = value * 10 + (*cursor++ - '0');
  if (*cursor == '.') ++cursor;
  return value;
}

bool running_kernel_moves_safely() {
  enum Answer : std::uint8_t { kUnknown, kNo, kYes };
  static constinit std::atomic<Answer> known{kUnknown};  // atomic: any thread; all come to the same answer
  if (const Answer answer = known.load(std::memory_order_relaxed); answer != kUnknown) return answer == kYes;
  utsname name{};
  if (system_call(SYS_uname, &name) < 0) return false;
  const char* cursor = name.release;
  const int major = next_number(cursor);
  const int minor = next_number(cursor);
  const int patch = next_number(cursor);
  const bool safe = kernel_move_is_known_good(major, minor, patch);
  known.store(safe ? kYes : kNo, std::memory_order_relaxed);
  return safe;
}

std::uint64_t wanted_features(std::uint64_t offered) {
  std::uint64_t wanted =
      offered & (uffd::kFeatureThreadId | uffd::kFeatureExactAddress | uffd::kFeaturePoison | uffd::kFeatureMove);
  if (!running_kernel_moves_safely()) wanted &= ~uffd::kFeatureMove;
  return wanted;
}

// The feature bits that the kernel offers and we want. UFFDIO_API works once per descriptor, so this takes one of its
// own and closes it.
Result<std::uint64_t> probe_features() {
  const long fd = open_raw();
  if (fd < 0) return failure<std::uint64_t>(static_cast<int>(-fd));
  uffd::Api api{uffd::kApiVersion, 0, 0};
  const long result = system_call(SYS_ioctl, fd, uffd::kIoctlApi, &api);
  static_cast<void>(system_call(SYS_close, fd));
  if (result < 0) return failure<std::uint64_t>(static_cast<int>(-result));
  return success(wanted_features(api.features));
}

UffdFeatures features_from(std::uint64_t bits) {
  UffdFeatures features;
  features.thread_id = (bits & uffd::kFeatureThreadId) != 0;
  features.move = (bits & uffd::kFeatureMove) != 0;
  features.poison = (bits & uffd::kFeaturePoison) != 0;
  return features;
}

void yield() { static_cast<void>(system_call(SYS_sched_yield)); }

}  // namespace

bool kernel_move_is_known_good(int major, int minor, int patch) {
  if (major != 6) return major > 6;
  if (minor == 12) return patch >= 43;
  return minor >= 17;
}

Userfaultfd::~Userfaultfd() { close(); }

Result<UffdFeatures> Userfaultfd::probe() {
  const Result<std::uint64_t> bits = probe_features();
  if (!bits.ok()) return {UffdFeatures{}, bits.error};
  return success(features_from(bits.value));
}

Errno Userfaultfd::open() {
  POLDER_CHECK(fd_ < 0, "userfaultfd is open already", fd_);
  const Result<std::uint64_t> bits = probe_features();
  if (!bits.ok()) return bits.error;
  const long fd = open_raw();
  if (fd < 0) return as_errno(fd);
  uffd::Api api{uffd::kApiVersion, bits.value, 0};
  const long result = system_call(SYS_ioctl, fd, uffd::kIoctlApi, &api);
  if (result < 0) {
    static_cast<void>(system_call(SYS_close, fd));
    return as_errno(result);
  }
  fd_ = static_cast<int>(fd);
  features_ = features_from(bits.value);
  static_cast<void>(pagemap_.open());  // only move() asks it, and takes no answer for "present"
  return kOk;
}

Errno Userfaultfd::open_for_moves() {
  POLDER_CHECK(fd_ < 0, "userfaultfd is open already", fd_);
  if (!running_kernel_moves_safely()) return Errno(EOPNOTSUPP);
  // Where huge pages come unasked, one beside the destination may stand in the way: nothing but the pagemap tells then.
  if (huge_page_mode() == HugePageMode::unasked) {
    if (const Errno error = pagemap_.open(); !error.ok()) return error;
  }
  const long fd = system_call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | uffd::kUserModeOnly);
  uffd::Api api{uffd::kApiVersion, uffd::kFeatureMove, 0};
  const long result = fd < 0 ? fd : system_call(SYS_ioctl, fd, uffd::kIoctlApi, &api);
  if (result < 0) {
    if (fd >= 0) static_cast<void>(system_call(SYS_close, fd));
    pagemap_.close();
    return result == -EINVAL ? Errno(EOPNOTSUPP) : as_errno(result);
  }
  fd_ = static_cast<int>(fd);
  features_.move = true;
  only_moves_ = true;
  return kOk;
}

void Userfaultfd::close() {
  if (fd_ < 0) return;
  static_cast<void>(system_call(SYS_close, fd_));
  pagemap_.close();
  fd_ = -1;
  only_moves_ = false;
  features_ = {};
}

Errno Userfaultfd::register_missing(void* address, std::size_t size) {
  POLDER_CHECK(page_aligned(address, size), "register: range", address, size);
  uffd::Register request{{reinterpret_cast<std::uintptr_t>(address), size}, uffd::kRegisterMissing, 0};
  return as_errno(uninterrupted_call(SYS_ioctl, fd_, uffd::kIoctlRegister, &request));
}

Errno Userfaultfd::unregister(void* address, std::size_t size) {
  POLDER_CHECK(page_aligned(address, size), "unregister: range", address, size);
  uffd::Range range{reinterpret_cast<std::uintptr_t>(address), size};
  return as_errno(uninterrupted_call(SYS_ioctl, fd_, uffd::kIoctlUnregister, &range));
}

std::size_t Userfaultfd::read_faults(Fault* faults, std::size_t capacity) {
  constexpr std::size_t kBatch = 32;
  uffd::Message messages[kBatch];
  std::size_t count = 0;
  while (count < capacity) {
    const std::size_t room = capacity - count < kBatch ? capacity - count : kBatch;
    const long length = uninterrupted_call(SYS_read, fd_, messages, room * sizeof messages[0]);
    if (length <= 0) break;  // EAGAIN: none pending
    const auto size = static_cast<std::size_t>(length);
    count += parse_faults(messages, size, faults + count);
    if (size / sizeof messages[0] < room) break;  // the queue was emptied
  }
  return count;
}

std::size_t Userfaultfd::parse_faults(const void* messages, std::size_t size, Fault* faults) const {
  static_assert(sizeof(uffd::Message) == kMessageSize);
  std::size_t count = 0;
  for (std::size_t i = 0; i < size / kMessageSize; ++i) {
    const uffd::Message& message = static_cast<const uffd::Message*>(messages)[i];
    if (message.event != uffd::kEventPagefault) continue;
    Fault& fault = faults[count++];
    fault.address = static_cast<std::uintptr_t>(message.address) & ~(kPageSize - 1);
    fault.offset = static_cast<std::uint16_t>(message.address & (kPageSize - 1));
    fault.thread = features_.thread_id ? message.thread : 0;
    fault.write = (message.flags & uffd::kPagefaultWrite) != 0;
  }
  return count;
}

Progress Userfaultfd::copy(void* destination, const void* source, std::size_t size, Wake wake_waiters) {
  POLDER_DCHECK(page_aligned(destination, size) && page_aligned(source, size), "copy: range", destination, source,
                size);
  Progress progress;
  unsigned tries = 0;
  while (progress.done < size) {
    uffd::Copy request{reinterpret_cast<std::uintptr_t>(destination) + progress.done,
                       reinterpret_cast<std::uintptr_t>(source) + progress.done, size - progress.done,
                       wake_waiters == Wake::yes ? 0 : uffd::kCopyDontWake, 0};
    const long result = system_call(SYS_ioctl, fd_, uffd::kIoctlCopy, &request);
    if (result == 0) {
      progress.done = size;
    } else if (request.copied > 0) {
      progress.done += static_cast<std::size_t>(request.copied);
      tries = 0;
    } else if (result == -EAGAIN || result == -EINTR) {
      if (++tries > kEagerTries) yield();
    } else {
      progress.error = as_errno(result);
      break;
    }
  }
  // The kernel leaves those asleep who wait for a page that turned out to be there.
  if (progress.error == Errno(EEXIST) && wake_waiters == Wake::yes) {
    wake(static_cast<char*>(destination) + progress.done, kPageSize);
  }
  return progress;
}

// Not opened before it is needed: most descriptors for moves alone live for one move, and opening the pagemap takes as long
// as that. Without it mincore(2) knows what is in memory, though not what the kernel has swapped.
Presence Userfaultfd::presence(const void* page) {
  if (only_moves_ && !pagemap_.is_open() && !pagemap_.open().ok()) {
    return first_present(page, kPageSize, 1).count == 1 ? Presence::present : Presence::unknown;
  }
  return pagemap_.presence(page);
}

bool Userfaultfd::has_moved(const void* source, const void* destination) {
  const Presence left = presence(source);
  if (left != Presence::unknown || !only_moves_) return left == Presence::absent;
  // Nobody else can have put a page there, as huge pages come only where they are asked for (open_for_moves()).
  return first_present(destination, kPageSize, 1).count == 1;
}

Progress Userfaultfd::move(void* destination, void* source, std::size_t size, Wake wake_waiters) {
  POLDER_DCHECK(page_aligned(destination, size) && page_aligned(source, size), "move: range", destination, source,
                size);
  Progress progress;
  unsigned tries = 0;
  while (progress.done < size) {
    uffd::Move request{reinterpret_cast<std::uintptr_t>(destination) + progress.done,
                       reinterpret_cast<std::uintptr_t>(source) + progress.done, size - progress.done,
                       uffd::kMoveAllowSourceHoles | (wake_waiters == Wake::yes ? 0 : uffd::kMoveDontWake), 0};
    const long result = system_call(SYS_ioctl, fd_, uffd::kIoctlMove, &request);
    if (result == 0) {
      progress.done = size;
    } else if (request.moved > 0) {
      progress.done += static_cast<std::size_t>(request.moved);
      tries = 0;
    } else if (result == -EAGAIN || result == -EINTR) {
      if (++tries > kMoveTries) {
        progress.error = Errno(EBUSY);
        break;
      }
      if (tries > kEagerTries) yield();
    } else if (result == -EEXIST &&
               has_moved(static_cast<char*>(source) + progress.done, static_cast<char*>(destination) + progress.done)) {
      if (wake_waiters == Wake::yes) wake(static_cast<char*>(destination) + progress.done, kPageSize);
      progress.done += kPageSize;
      tries = 0;
    } else {
      progress.error = as_errno(result);
      break;
    }
  }
  if (progress.error == Errno(EEXIST) && wake_waiters == Wake::yes) {
    wake(static_cast<char*>(destination) + progress.done, kPageSize);
  }
  return progress;
}

Errno Userfaultfd::poison(void* address, std::size_t size) {
  POLDER_DCHECK(page_aligned(address, size), "poison: range", address, size);
  if (!features_.poison) return Errno(EOPNOTSUPP);
  std::size_t done = 0;
  unsigned tries = 0;
  while (done < size) {
    uffd::Poison request{{reinterpret_cast<std::uintptr_t>(address) + done, size - done}, 0, 0};
    const long result = system_call(SYS_ioctl, fd_, uffd::kIoctlPoison, &request);
    if (result == 0) return kOk;
    if (request.updated > 0) {
      done += static_cast<std::size_t>(request.updated);
      tries = 0;
    } else if (result == -EAGAIN || result == -EINTR) {
      if (++tries > kEagerTries) yield();
    } else {
      return as_errno(result);
    }
  }
  return kOk;
}

void Userfaultfd::wake(void* address, std::size_t size) {
  POLDER_DCHECK(page_aligned(address, size), "wake: range", address, size);
  uffd::Range range{reinterpret_cast<std::uintptr_t>(address), size};
  static_cast<void>(system_call(SYS_ioctl, fd_, uffd::kIoctlWake, &range));
}

}  // namespace polder::os
