#include "runtime/cli/process.h"

#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "runtime/cli/failure.h"

namespace polder::cli {
namespace {

// A 64-bit ELF file. Nothing that it says about itself is believed before it was read.
class ElfFile {
 public:
  // Whatever lies there: only plain files are read. `inode`: 0 for any.
  ElfFile(const std::string& path, std::uint64_t inode) {
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat status;
    if (fd_ < 0 || fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode) || (inode != 0 && status.st_ino != inode))
      return;
    readable_ = true;
  }
  ~ElfFile() {
    if (fd_ >= 0) close(fd_);
  }
  ElfFile(const ElfFile&) = delete;
  ElfFile& operator=(const ElfFile&) = delete;

  bool readable() const { return readable_; }

  // How far a symbol lies from the place that the file's beginning is mapped to.
  std::optional<std::uint64_t> offset_of(const std::string& symbol) const {
    const std::vector<Elf64_Ehdr> headers = at<Elf64_Ehdr>(0, 1);
    if (headers.empty()) return std::nullopt;
    const Elf64_Ehdr& header = headers.front();
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_phentsize != sizeof(Elf64_Phdr) || header.e_shentsize != sizeof(Elf64_Shdr)) {
      return std::nullopt;
    }
    const std::optional<std::uint64_t> base = address_of_beginning(header);
    if (!base) return std::nullopt;
    const std::vector<Elf64_Shdr> sections = at<Elf64_Shdr>(header.e_shoff, header.e_shnum);
    for (const Elf64_Shdr& section : sections) {
      if (section.sh_type != SHT_DYNSYM && section.sh_type != SHT_SYMTAB) continue;
      if (section.sh_link >= sections.size()) continue;
      if (const auto value = value_in(section, sections[section.sh_link], symbol); value) return *value - *base;
    }
    return std::nullopt;
  }

 private:
  // No table of symbols that anybody has is larger.
  static constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 30;

  // Empty where the file has less.
  template <typename T>
  std::vector<T> at(std::uint64_t offset, std::uint64_t count) const {
    struct stat status;
    if (!readable_ || fstat(fd_, &status) != 0 || count > kMostBytes / sizeof(T)) return {};
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (offset > size || count * sizeof(T) > size - offset) return {};
    std::vector<T> values(count);
    char* to = reinterpret_cast<char*>(values.data());
    for (std::size_t left = count * sizeof(T); left != 0;) {
      const ssize_t got = pread(fd_, to, left, static_cast<off_t>(offset));
      if (got <= 0) return {};
      to += got;
      left -= static_cast<std::size_t>(got);
      offset += static_cast<std::uint64_t>(got);
    }
    return values;
  }

  std::optional<std::uint64_t> address_of_beginning(const Elf64_Ehdr& header) const {
    const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
    for (const Elf64_Phdr& segment : at<Elf64_Phdr>(header.e_phoff, header.e_phnum)) {
      if (segment.p_type == PT_LOAD && segment.p_offset < page) return segment.p_vaddr / page * page;
    }
    return std::nullopt;
  }

  std::optional<std::uint64_t> value_in(const Elf64_Shdr& section, const Elf64_Shdr& strings,
                                        const std::string& symbol) const {
    const std::vector<char> names = at<char>(strings.sh_offset, strings.sh_size);
    const std::size_t length = symbol.size() + 1;  // with its NUL
    for (const Elf64_Sym& each : at<Elf64_Sym>(section.sh_offset, section.sh_size / sizeof(Elf64_Sym))) {
      if (each.st_shndx == SHN_UNDEF || each.st_name >= names.size() || names.size() - each.st_name < length) continue;
      if (std::memcmp(names.data() + each.st_name, symbol.c_str(), length) == 0) return each.st_value;
    }
    return std::nullopt;
  }

  int fd_ = -1;
  bool readable_ = false;
};

std::string proc(pid_t id, absl::string_view what) { return absl::StrCat("/proc/", id, "/", what); }

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A line of /proc/PID/maps: start-end permissions offset device inode path.
struct Mapping {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t offset = 0;
  std::uint64_t inode = 0;
  std::string path;
};

std::optional<Mapping> parse_mapping(const std::string& line) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(' ', 5));
  if (fields.size() < 6) return std::nullopt;
  const std::pair<absl::string_view, absl::string_view> range = absl::StrSplit(fields[0], absl::MaxSplits('-', 1));
  Mapping mapping;
  if (!absl::SimpleHexAtoi(range.first, &mapping.start) || !absl::SimpleHexAtoi(range.second, &mapping.end) ||
      !absl::SimpleHexAtoi(fields[2], &mapping.offset) || !absl::SimpleAtoi(fields[4], &mapping.inode)) {
    return std::nullopt;
  }
  mapping.path = std::string(fields[5].substr(std::min(fields[5].find_first_not_of(' '), fields[5].size())));
  return mapping;
}

// As the process sees the file; where it has been replaced meanwhile, by its mapping, which the kernel shows to root only.
std::optional<std::uint64_t> offset_in(pid_t id, const Mapping& mapping, const std::string& symbol, bool& complete) {
  const ElfFile file(proc(id, absl::StrCat("root", mapping.path)), mapping.inode);
  if (file.readable()) return file.offset_of(symbol);
  const std::string range = absl::StrCat(absl::Hex(mapping.start), "-", absl::Hex(mapping.end));
  const ElfFile mapped(proc(id, absl::StrCat("map_files/", range)), 0);
  complete &= mapped.readable();
  return mapped.offset_of(symbol);
}

}  // namespace

Process::Process(pid_t id) : id_(id) {
  if (kill(id, 0) != 0 && errno == ESRCH) fail(kStatusUsage, absl::StrCat("there is no process ", id));
  const std::string status = contents(proc(id, "stat"));
  const std::size_t name_end = status.rfind(") ");
  if (name_end != std::string::npos && status.compare(name_end + 2, 1, "Z") == 0) {
    fail(kStatusUsage, absl::StrCat("process ", id, " has ended"));
  }
}

void Process::fail_to_open(int error) const {
  if (kill(id_, 0) != 0 && errno == ESRCH) fail(1, absl::StrCat("process ", id_, " has ended"));
  fail(kStatusUsage, absl::StrCat("process ", id_, " may not be looked into: ", std::strerror(error),
                                  "; do it as root, or as the process's user where /proc/sys/kernel/yama/ptrace_scope, "
                                  "if there is one, is 0"));
}

Process::Places Process::places_of(const std::string& symbol) const {
  std::ifstream maps(proc(id_, "maps"));
  if (!maps) fail_to_open(errno);
  Places places;
  std::map<std::pair<std::string, std::uint64_t>, std::optional<std::uint64_t>> offsets;  // by path and inode
  for (std::string line; std::getline(maps, line);) {
    const std::optional<Mapping> mapping = parse_mapping(line);
    if (!mapping || mapping->inode == 0 || mapping->offset != 0) continue;
    const auto [known, first] = offsets.try_emplace({mapping->path, mapping->inode});
    if (first) known->second = offset_in(id_, *mapping, symbol, places.complete);
    if (known->second) places.addresses.push_back(mapping->start + *known->second);
  }
  return places;
}

std::string Process::name() const {
  const std::string line = contents(proc(id_, "cmdline"));
  const std::string word = line.substr(0, line.find('\0'));
  return word.substr(word.rfind('/') + 1);
}

std::vector<pid_t> Process::children() const {
  std::vector<pid_t> children;
  std::ifstream file(proc(id_, absl::StrCat("task/", id_, "/children")));
  for (pid_t child = 0; file >> child;) children.push_back(child);
  return children;
}

bool Process::transferred(ssize_t done, std::size_t size) const {
  if (done >= 0) return static_cast<std::size_t>(done) == size;
  if (errno == ESRCH) fail(1, absl::StrCat("process ", id_, " has ended"));
  if (errno == EPERM || errno == ENOSYS) fail_to_open(errno);
  return false;
}

bool Process::read(std::uint64_t address, void* to, std::size_t size) const {
  const iovec local{to, size};
  const iovec remote{reinterpret_cast<void*>(address), size};
  return transferred(process_vm_readv(id_, &local, 1, &remote, 1, 0), size);
}

bool Process::write(std::uint64_t address, const void* from, std::size_t size) const {
  const iovec local{const_cast<void*>(from), size};
  const iovec remote{reinterpret_cast<void*>(address), size};
  return transferred(process_vm_writev(id_, &local, 1, &remote, 1, 0), size);
}

}  // namespace polder::cli
