// A line of text built on the stack: what the library has to say on standard error, from any thread, at any time.
// Nothing allocates, nothing touches the arena, nothing changes errno.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polder {

class Message {
 public:
  Message& text(const char* string);
  Message& number(std::uint64_t value);
  Message& hex(std::uint64_t value);
  Message& pointer(const void* value) { return hex(reinterpret_cast<std::uintptr_t>(value)); }
  // Bytes in the largest unit that divides them: 64M, 1536K, 12.
  Message& size(std::uint64_t bytes);
  // "errno 28 (No space left on device)", from a table that does not allocate.
  Message& error(int code);

  const char* data() const { return buffer_; }
  // Zero-terminated; valid as long as the message.
  const char* c_str();
  std::size_t length() const { return length_; }

 private:
  static constexpr std::size_t kCapacity = 512;  // longer text is cut

  char buffer_[kCapacity + 1];
  std::size_t length_ = 0;
};

// Where messages go. The os layer installs the writer to standard error; tests may install their own.
using MessageSink = void (*)(const char* text, std::size_t length);
void set_message_sink(MessageSink sink);

// Writes "polder: <message>\n" in one call.
void say(const Message& message);

}  // namespace polder
