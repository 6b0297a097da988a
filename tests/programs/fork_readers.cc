// Threads that fork while most of the process's memory is evicted. Children read what their parent wrote, every byte of
// it, so do grandchildren; children write and check what they wrote; the parent's bytes stay what they were.
//
//   fork_readers [MEBIBYTES] [ROUNDS] [THREADS]      (384, 3, 4)
//
// Status 0 and a line of figures when every byte was right everywhere.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "programs/pattern.h"

namespace polder::programs {
namespace {

constexpr int kDifference = 3;
constexpr int kBroken = 4;

struct Object {
  unsigned char* pointer;
  std::size_t size;
  std::uint64_t seed;

  void fill() const { Pattern(seed).fill(pointer, 0, size); }
};

std::atomic<std::uint64_t> children{0};
std::atomic<std::uint64_t> bytes_read_by_children{0};

// Small objects with a large one now and then, in the order in which one thread allocated them.
std::vector<Object> allocate(std::uint64_t bytes, std::uint64_t seed) {
  Random random(seed);
  std::vector<Object> objects;
  for (std::uint64_t total = 0; total < bytes;) {
    const std::size_t size = random.one_in(100) ? (std::size_t{64} << 10) + random.below(std::size_t{1} << 20)
                                                : 32 + random.below(std::size_t{8} << 10);
    const Object object{static_cast<unsigned char*>(std::malloc(size)), size, random.next()};
    if (object.pointer == nullptr) std::_Exit(kBroken);
    object.fill();
    objects.push_back(object);
    total += size;
  }
  return objects;
}

// Bytes checked. Ends the process at the first difference: a child must not unwind.
std::uint64_t check(const std::vector<Object>& objects, std::size_t from, std::size_t step, const char* who) {
  std::uint64_t bytes = 0;
  for (std::size_t i = from; i < objects.size(); i += step) {
    const Object& object = objects[i];
    const std::size_t wrong = Pattern(object.seed).first_difference(object.pointer, 0, object.size);
    if (wrong != Pattern::kNone) {
      char line[256];
      const int length = std::snprintf(
          line, sizeof line, "fork_readers: %s %d: object %zu at %p, %zu bytes: byte %zu is 0x%02x instead of 0x%02x\n",
          who, getpid(), i, static_cast<void*>(object.pointer), object.size, wrong, object.pointer[wrong],
          Pattern(object.seed).byte(wrong));
      if (write(STDERR_FILENO, line, static_cast<std::size_t>(length)) < 0) std::_Exit(kBroken);
      std::_Exit(kDifference);
    }
    bytes += object.size;
  }
  return bytes;
}

int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return status;
}

// Runs `body` in a child and ends the process when the child did not end with 0.
template <typename Body>
void in_child(const char* what, Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    std::_Exit(0);
  }
  const int status = child < 0 ? -1 : wait_for(child);
  children.fetch_add(1);
  if (status != 0) {
    std::fprintf(stderr, "fork_readers: %s ended with wait status 0x%x\n", what, static_cast<unsigned>(status));
    std::_Exit(kBroken);
  }
}

class Family {
 public:
  Family(std::vector<std::vector<Object>>& everything, std::size_t index, unsigned rounds)
      : everything_(everything), index_(index), rounds_(rounds), random_(index + 1) {}

  void run() {
    for (unsigned round = 0; round < rounds_; ++round) {
      readers(round);
      writers(round);
      check(own(), round % kShare, kShare, "parent after its children");
    }
  }

 private:
  // Readers touch every kShare-th object of all threads, each time others, so that the rounds together cover them all.
  static constexpr std::size_t kShare = 6;

  std::vector<Object>& own() { return everything_[index_]; }

  // Nobody writes to the others' objects in place: a child may read all of them.
  void readers(unsigned round) {
    const std::size_t part = (index_ + round) % kShare;
    in_child("a reading child", [&] {
      for (const auto& objects : everything_) check(objects, part, kShare, "child");
      in_child("a reading grandchild", [&] {
        for (const auto& objects : everything_) check(objects, (part + 1) % kShare, kShare, "grandchild");
      });
      check(own(), 0, 1, "child after its grandchild");
    });
    std::uint64_t bytes = 0;
    for (const Object& object : own()) bytes += object.size;
    bytes_read_by_children.fetch_add(bytes + bytes * everything_.size() / kShare * 2);
  }

  // The child overwrites, frees and allocates; what it does is its own.
  void writers(unsigned round) {
    in_child("a writing child", [&] {
      std::vector<Object>& objects = own();
      for (std::size_t i = round % 3; i < objects.size(); i += 3) {
        objects[i].seed = random_.next();
        if (i % 2 == 0) {
          std::free(objects[i].pointer);
          objects[i].size = 32 + random_.below(std::size_t{8} << 10);
          objects[i].pointer = static_cast<unsigned char*>(std::malloc(objects[i].size));
          if (objects[i].pointer == nullptr) std::_Exit(kBroken);
        }
        objects[i].fill();
      }
      check(objects, 0, 1, "child that wrote");
      in_child("a writing child's child", [&] { check(own(), round % 2, 2, "grandchild of a writer"); });
    });
  }

  std::vector<std::vector<Object>>& everything_;
  std::size_t index_;
  unsigned rounds_;
  Random random_;
};

int run(std::uint64_t mebibytes, unsigned rounds, unsigned threads) {
  std::vector<std::vector<Object>> everything(threads);
  const auto on_every_thread = [&](auto body) {
    std::vector<std::thread> crew;
    for (std::size_t i = 0; i < threads; ++i) crew.emplace_back(body, i);
    for (std::thread& thread : crew) thread.join();
  };
  on_every_thread([&](std::size_t i) { everything[i] = allocate((mebibytes << 20) / threads, i + 1); });
  on_every_thread([&](std::size_t i) { Family(everything, i, rounds).run(); });
  // The parent writes everything anew after its children: their pages are shared no longer.
  on_every_thread([&](std::size_t i) {
    for (Object& object : everything[i]) ++object.seed, object.fill();
    check(everything[i], 0, 1, "parent at the end");
    for (const Object& object : everything[i]) std::free(object.pointer);
  });
  std::printf("fork_readers: %llu children, %llu MiB read by them, errors 0\n",
              static_cast<unsigned long long>(children.load()),
              static_cast<unsigned long long>(bytes_read_by_children.load() >> 20));
  return 0;
}

}  // namespace
}  // namespace polder::programs

int main(int argc, char** argv) {
  const auto argument = [&](int index, unsigned long otherwise) {
    return argc > index ? std::strtoul(argv[index], nullptr, 10) : otherwise;
  };
  return polder::programs::run(argument(1, 384), static_cast<unsigned>(argument(2, 3)),
                               static_cast<unsigned>(argument(3, 4)));
}
