#include "base/message.h"

#include <atomic>
#include <cerrno>

namespace polder {
namespace {

// Without pointers: the dynamic linker would have to write to them, in every process.
struct ErrorText {
  int code;
  char text[36];
};

// The errors that the library's own system calls can meet.
constexpr ErrorText kErrorTexts[] = {
    {EPERM, "Operation not permitted"},
    {ENOENT, "No such file or directory"},
    {ESRCH, "No such process"},
    {EINTR, "Interrupted system call"},
    {EIO, "Input/output error"},
    {ENXIO, "No such device or address"},
    {EBADF, "Bad file descriptor"},
    {EAGAIN, "Resource temporarily unavailable"},
    {ENOMEM, "Cannot allocate memory"},
    {EACCES, "Permission denied"},
    {EFAULT, "Bad address"},
    {EBUSY, "Device or resource busy"},
    {EEXIST, "File exists"},
    {ENODEV, "No such device"},
    {ENOTDIR, "Not a directory"},
    {EISDIR, "Is a directory"},
    {EINVAL, "Invalid argument"},
    {ENFILE, "Too many open files in system"},
    {EMFILE, "Too many open files"},
    {EFBIG, "File too large"},
    {ENOSPC, "No space left on device"},
    {EROFS, "Read-only file system"},
    {EDQUOT, "Disk quota exceeded"},
    {ENOSYS, "Function not implemented"},
    {EOPNOTSUPP, "Operation not supported"},
};

void discard_message(const char*, std::size_t) {}

// Atomic: tests swap the sink while service threads may speak. Relaxed suffices, the pointer is all there is.
constinit std::atomic<MessageSink> sink{discard_message};

}  // namespace

Message& Message::text(const char* string) {
  while (*string != '\0' && length_ < kCapacity) buffer_[length_++] = *string++;
  return *this;
}

Message& Message::number(std::uint64_t value) {
  char digits[21];
  char* cursor = digits + sizeof digits;
  *--cursor = '\0';
  do {
    *--cursor = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  return text(cursor);
}

Message& Message::hex(std::uint64_t value) {
  char digits[19];
  char* cursor = digits + sizeof digits;
  *--cursor = '\0';
  do {
    *--cursor = "0123456789abcdef"[value % 16];
    value /= 16;
  } while (value != 0);
  *--cursor = 'x';
  *--cursor = '0';
  return text(cursor);
}

Message& Message::size(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"", "K", "M", "G", "T"};
  unsigned unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  return number(bytes).text(kUnits[unit]);
}

Message& Message::error(int code) {
  text("errno ").number(static_cast<std::uint64_t>(code));
  for (const ErrorText& entry : kErrorTexts) {
    if (entry.code == code) return text(" (").text(entry.text).text(")");
  }
  return *this;
}

const char* Message::c_str() {
  buffer_[length_] = '\0';
  return buffer_;
}

void set_message_sink(MessageSink new_sink) { sink.store(new_sink, std::memory_order_relaxed); }

void say(const Message& message) {
  Message line;
  line.text("polder: ");
  Message copy = message;
  line.text(copy.c_str()).text("\n");
  sink.load(std::memory_order_relaxed)(line.data(), line.length());
}

}  // namespace polder
