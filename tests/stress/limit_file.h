// How a program whose limit changes tells an observer in another process which limit is in force. A raise is published
// before it is asked for and a cut after it has been granted, so at every moment the published limit is one that the
// resident memory must not exceed.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace polder::stress {

struct LimitFile {
  std::atomic<std::uint64_t> changes{0};
  std::atomic<std::uint64_t> limit{0};  // bytes; 0 while nothing was published

  void publish(std::uint64_t bytes) {
    limit.store(bytes);
    changes.fetch_add(1);
  }

  // Null when the file cannot be mapped. Creates it at its size.
  static LimitFile* map(const char* path) {
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return nullptr;
    void* memory = MAP_FAILED;
    if (ftruncate(fd, sizeof(LimitFile)) == 0) {
      memory = mmap(nullptr, sizeof(LimitFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    close(fd);
    return memory == MAP_FAILED ? nullptr : static_cast<LimitFile*>(memory);
  }
};

}  // namespace polder::stress
