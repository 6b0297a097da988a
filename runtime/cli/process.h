// Another process's memory, as far as the kernel lets us: whoever may trace a process may read and write it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace polder::cli {

class Process {
 public:
  // Throws Failure where there is none of that number.
  explicit Process(pid_t id);

  pid_t id() const { return id_; }

  struct Places {
    std::vector<std::uint64_t> addresses;
    bool complete = true;  // false: the file of something that is loaded could not be read
  };
  // Where a symbol is, in each program and library that the process has loaded; their files are read. What was stripped
  // has none. Throws Failure where the kernel forbids to look.
  Places places_of(const std::string& symbol) const;

  // The command line's first word, its last component; empty where there is none.
  std::string name() const;
  std::vector<pid_t> children() const;

  // Whether the memory is there; throws Failure where the kernel forbids it, or the process has ended.
  bool read(std::uint64_t address, void* to, std::size_t size) const;
  bool write(std::uint64_t address, const void* from, std::size_t size) const;

 private:
  bool transferred(ssize_t done, std::size_t size) const;
  [[noreturn]] void fail_to_open(int error) const;

  pid_t id_;
};

}  // namespace polder::cli
