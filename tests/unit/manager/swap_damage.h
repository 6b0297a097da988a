// The swap file of a running pager, for tests that take bytes away from it: cut off, reads of a slot end in EIO;
// overwritten, what is read is not what was written. The file is nameless and open in the descriptor table of the
// service threads only, whose entries /proc shows.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "base/units.h"
#include "store/store.h"

namespace polder {

// Some slots' bytes, in memory that O_DIRECT accepts.
class Slots {
 public:
  Slots(std::uint64_t offset, std::size_t size)
      : offset_(offset), size_(size), bytes_(static_cast<char*>(std::aligned_alloc(kPageSize, size))) {}

  std::uint64_t offset() const { return offset_; }
  std::size_t size() const { return size_; }
  char* bytes() { return bytes_.get(); }
  const char* bytes() const { return bytes_.get(); }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  std::uint64_t offset_;
  std::size_t size_;
  std::unique_ptr<char, Free> bytes_;
};

class SwapDamage {
 public:
  SwapDamage() = default;
  SwapDamage(const SwapDamage&) = delete;
  SwapDamage& operator=(const SwapDamage&) = delete;
  ~SwapDamage() {
    if (fd_ >= 0) close(fd_);
  }

  // Opens the file that holds `location`. False when no pager of this process has it.
  bool open_file_of(const Store& store, Location location) {
    const std::string thread = pager_thread();
    if (thread.empty()) return false;
    if (fd_ >= 0) close(fd_);
    const std::string path = thread + "/fd/" + std::to_string(store.fd(location));
    fd_ = open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd_ < 0) fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
    struct stat status {};
    return fd_ >= 0 && fstat(fd_, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 0;
  }

  // The bytes of [offset, end), to be put back later.
  Slots save(std::uint64_t offset, std::uint64_t end) const {
    Slots slots(offset, end - offset);
    for (std::size_t done = 0; done < slots.size();) {
      const ssize_t length = pread(fd_, slots.bytes() + done, slots.size() - done, static_cast<off_t>(offset + done));
      if (length <= 0) std::abort();
      done += static_cast<std::size_t>(length);
    }
    return slots;
  }

  // Reads at and behind `offset` fail from now on.
  void cut(std::uint64_t offset) const {
    if (ftruncate(fd_, static_cast<off_t>(offset)) != 0) std::abort();
  }

  // In ascending order, so that the file never holds anything but the right bytes.
  void restore(const Slots& slots, std::size_t at_once = std::size_t{1} << 20) const {
    for (std::size_t done = 0; done < slots.size();) {
      const std::size_t size = std::min(at_once, slots.size() - done);
      const ssize_t length = pwrite(fd_, slots.bytes() + done, size, static_cast<off_t>(slots.offset() + done));
      if (length <= 0) std::abort();
      done += static_cast<std::size_t>(length);
    }
  }

 private:
  static std::string pager_thread() {
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::string name;
      std::ifstream(task.path() / "comm") >> name;
      if (name == "polder-pager") return task.path().string();
    }
    return {};
  }

  int fd_ = -1;
};

}  // namespace polder
