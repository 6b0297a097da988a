// The unit tests' main(): a failed check of the library says why before it aborts.
#include <gmock/gmock.h>
#include <unistd.h>

#include "base/message.h"

int main(int count, char** words) {
  testing::InitGoogleMock(&count, words);
  polder::set_message_sink([](const char* text, std::size_t length) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, length);
  });
  return RUN_ALL_TESTS();
}
