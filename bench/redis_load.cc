// Fills a redis server with values and reads them back, over a unix socket, pipelined.
//
//   redis_load SOCKET load|read [BYTES]        (1 GiB)
//
// Keys are key:00000000 and so on; the value of each has 1 to 4 KiB of pseudo-random bytes that follow from its number.
// `load` sets them in order; `read` gets every one of them once, in random order, and checks every byte. Progress goes
// to standard output, `done-bytes all-bytes` a line, five times a second; the last line is `end keys bytes seconds`.
// Status 1: a wrong byte or a reply that is not what was asked for; 2: usage or no connection.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "programs/pattern.h"

namespace polder::bench {
namespace {

using programs::Pattern;
using programs::Random;

constexpr std::size_t kSmallest = 1024;
constexpr std::size_t kLargest = 4096;
constexpr std::size_t kBatch = 64;  // commands between two looks at the replies

[[noreturn]] void fail(int status, const char* what) {
  std::fprintf(stderr, "redis_load: %s\n", what);
  std::exit(status);
}

double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

class Connection {
 public:
  explicit Connection(const char* path) : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), buffer_(1 << 20) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (std::strlen(path) >= sizeof address.sun_path) fail(2, "the socket's path is too long");
    std::strcpy(address.sun_path, path);
    if (fd_ < 0 || connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fail(2, "cannot connect");
  }
  ~Connection() { close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail(1, "the server closed the connection");
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
  }

  // A line without its end; valid until the next call.
  std::string_view line() {
    while (true) {
      const std::string_view have(buffer_.data() + begin_, end_ - begin_);
      const std::size_t at = have.find("\r\n");
      if (at != std::string_view::npos) {
        begin_ += at + 2;
        return have.substr(0, at);
      }
      more();
    }
  }
  const char* bytes(std::size_t count) {
    while (end_ - begin_ < count) more();
    begin_ += count;
    return buffer_.data() + begin_ - count;
  }

 private:
  void more() {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    ssize_t got;
    do {
      got = read(fd_, buffer_.data() + end_, buffer_.size() - end_);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) fail(1, "the server closed the connection");
    end_ += static_cast<std::size_t>(got);
  }

  int fd_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

struct Value {
  std::uint64_t seed;
  std::size_t size;
};

Value value_of(std::uint64_t key) {
  Random random(key + 1);
  const std::uint64_t seed = (random.next() << 4) | 7;  // never one of the patterns that compress
  return {seed, kSmallest + random.below(kLargest - kSmallest + 1)};
}

class Job {
 public:
  Job(const char* socket, std::uint64_t bytes) : connection_(socket) {
    while (bytes_ < bytes) bytes_ += value_of(keys_++).size;
  }

  void load() {
    run([this](std::uint64_t index) { ask_set(index); },
        [this](std::uint64_t index) {
          if (connection_.line() != "+OK") fail(1, "SET was refused");
          return value_of(index).size;
        });
  }

  void read() {
    std::vector<std::uint32_t> order(keys_);
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
    Random random(11);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    run([&](std::uint64_t index) { ask_get(order[index]); },
        [&](std::uint64_t index) { return check_get(order[index]); });
  }

 private:
  static std::string key_name(std::uint64_t key) {
    char name[16];
    std::snprintf(name, sizeof name, "key:%08u", static_cast<unsigned>(key));
    return name;
  }

  void ask_set(std::uint64_t key) {
    const Value value = value_of(key);
    request_ += "*3\r\n$3\r\nSET\r\n$12\r\n" + key_name(key) + "\r\n$" + std::to_string(value.size) + "\r\n";
    const std::size_t at = request_.size();
    request_.resize(at + value.size);
    Pattern(value.seed).fill(request_.data() + at, 0, value.size);
    request_ += "\r\n";
  }
  void ask_get(std::uint64_t key) { request_ += "*2\r\n$3\r\nGET\r\n$12\r\n" + key_name(key) + "\r\n"; }

  std::size_t check_get(std::uint64_t key) {
    const Value value = value_of(key);
    const std::string_view head = connection_.line();
    if (head != "$" + std::to_string(value.size)) {
      std::fprintf(stderr, "redis_load: %s: reply \"%.*s\" instead of %zu bytes\n", key_name(key).c_str(),
                   static_cast<int>(head.size()), head.data(), value.size);
      std::exit(1);
    }
    const char* bytes = connection_.bytes(value.size + 2);
    const std::size_t wrong = Pattern(value.seed).first_difference(bytes, 0, value.size);
    if (wrong != Pattern::kNone) {
      std::fprintf(stderr, "redis_load: WRONG BYTE: %s, byte %zu of %zu\n", key_name(key).c_str(), wrong, value.size);
      std::exit(1);
    }
    return value.size;
  }

  // Asks for batch after batch, one ahead of the replies that are being read.
  template <typename Ask, typename Check>
  void run(Ask ask, Check check) {
    const double start = now();
    double shown = start;
    std::uint64_t asked = 0;
    std::uint64_t checked = 0;
    std::uint64_t bytes = 0;
    while (checked < keys_) {
      if (asked < keys_ && asked - checked <= kBatch) {
        request_.clear();
        for (std::size_t i = 0; i < kBatch && asked < keys_; ++i) ask(asked++);
        connection_.send(request_);
      }
      for (std::size_t i = 0; i < kBatch && checked < asked && (asked == keys_ || asked - checked > kBatch); ++i) {
        bytes += check(checked++);
      }
      if (now() - shown >= 0.2) {
        shown = now();
        std::printf("%llu %llu\n", static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(bytes_));
        std::fflush(stdout);
      }
    }
    std::printf("end %llu %llu %.3f\n", static_cast<unsigned long long>(keys_), static_cast<unsigned long long>(bytes),
                now() - start);
  }

  Connection connection_;
  std::uint64_t keys_ = 0;
  std::uint64_t bytes_ = 0;
  std::string request_;
};

int run(int argc, char** argv) {
  if (argc < 3 || argc > 4) fail(2, "redis_load SOCKET load|read [BYTES]");
  const std::string_view mode = argv[2];
  Job job(argv[1], argc == 4 ? std::strtoull(argv[3], nullptr, 10) : std::uint64_t{1} << 30);
  if (mode == "load") {
    job.load();
  } else if (mode == "read") {
    job.read();
  } else {
    fail(2, "load or read?");
  }
  return 0;
}

}  // namespace
}  // namespace polder::bench

int main(int argc, char** argv) { return polder::bench::run(argc, argv); }
