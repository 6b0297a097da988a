#include "base/check.h"

#include "base/fatal.h"
#include "base/message.h"

namespace polder::internal {

void check_failed(const char* file, int line, const char* condition, const char* text, const char* names,
                  std::initializer_list<Operand> operands) {
  Message message;
  message.text("check failed: ").text(text).text(": ").text(condition);
  message.text(" at ").text(file).text(":").number(static_cast<unsigned>(line));
  if (operands.size() != 0) {
    message.text(" with (").text(names).text(") = (");
    bool first = true;
    for (const Operand& value : operands) {
      if (!first) message.text(", ");
      first = false;
      message.hex(value.value);
    }
    message.text(")");
  }
  die(message);
}

}  // namespace polder::internal
