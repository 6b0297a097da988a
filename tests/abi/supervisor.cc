// Plays the part of `polder run --stats`: makes a statistics segment for a process that it starts with the library
// preloaded, and looks at what that process, its children and processes with other ids have counted there.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>

#include "../../src/base/statistics_segment.h"

namespace {

constexpr std::size_t kSize = sizeof(polder::StatisticsSegment);

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

// A comma and a backslash in the path, which the option's syntax must survive.
std::string make_file() {
  char name[] = "/tmp/abi,stat\\isticsXXXXXX";
  const int file = mkstemp(name);
  if (file < 0 || ftruncate(file, kSize) != 0) std::abort();
  close(file);
  return name;
}

std::string escaped(const std::string& path) {
  std::string result;
  for (const char character : path) {
    if (character == ',' || character == '\\') result += '\\';
    result += character;
  }
  return result;
}

polder::StatisticsSegment* map(const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  void* const memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) std::abort();
  return new (memory) polder::StatisticsSegment;
}

// Runs the shell command in a process of its own; its wait status. The segment is made for that process, or for the id
// that differs from it by `offset`.
int run(const char* library, const std::string& path, polder::StatisticsSegment* segment, pid_t offset,
        const char* command) {
  int ready[2];
  if (pipe(ready) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    char go;
    if (read(ready[0], &go, 1) != 1) _exit(9);
    const std::string owner = std::to_string(getpid() + offset);
    setenv("POLDER_CONF", ("memory:64M,stats-segment:" + escaped(path) + ",stats-owner:" + owner).c_str(), 1);
    setenv("LD_PRELOAD", library, 1);
    execl("/bin/sh", "sh", "-c", command, nullptr);
    _exit(10);
  }
  segment->header.size = kSize;
  segment->header.owner_process = static_cast<std::uint64_t>(child + offset);
  if (write(ready[1], "x", 1) != 1) std::abort();
  close(ready[0]);
  close(ready[1]);
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string path = make_file();
  polder::StatisticsSegment* const segment = map(path);

  segment->pager.faults = 123;  // left over from an earlier program of the same process
  expect(run(argv[1], path, segment, 0, "(exit 3); exit $?") == 3 << 8, "the command ran");
  expect(segment->setup.limit_bytes == 64 << 20, "the owner's limit");
  expect(segment->setup.arena_size != 0 && segment->setup.arena_base != 0, "the owner's arena");
  expect(segment->pager.faults == 0, "counted from the start");
  expect(segment->allocation.forks >= 1, "the owner's forks");

  segment->setup.limit_bytes = 4711;
  expect(run(argv[1], path, segment, 1, "true") == 0, "the command ran");
  expect(segment->setup.limit_bytes == 4711, "another process's segment is left alone");

  segment->header.version += 1;
  expect(run(argv[1], path, segment, 0, "true 2>/dev/null") == 0, "the command ran");
  expect(segment->setup.limit_bytes == 4711, "a segment of another version is left alone");

  expect(run(argv[1], path + ".missing", segment, 0, "true") == 0, "a missing segment stops nobody");

  unlink(path.c_str());
  return failures == 0 ? 0 : 1;
}
