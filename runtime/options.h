// The options of the library, read from POLDER_CONF ("memory:64M,swap-dir:/var/tmp"). The fields, their names, types and
// defaults are the table runtime/options.inc. Nothing here allocates, reads the environment or ends the program.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/errno.h"
#include "os/io_engine.h"
#include "pager/policy/kind.h"

namespace polder::runtime {

// A NUL-terminated string that an option carries: a path.
struct OptionText {
  static constexpr std::size_t kCapacity = 4096;  // PATH_MAX, with its NUL

  constexpr OptionText() = default;
  constexpr explicit OptionText(const char* string) {
    std::size_t length = 0;
    for (; string[length] != '\0'; ++length) text[length] = string[length];
    text[length] = '\0';
  }

  constexpr bool empty() const { return text[0] == '\0'; }

  char text[kCapacity] = {};
};

namespace option_type {
using size = std::uint64_t;
using string = OptionText;
using backend = os::IoBackend;
using policy = PolicyKind;
using number = std::uint64_t;
using flag = bool;

inline constexpr os::IoBackend automatic = os::IoBackend::automatic;
inline constexpr PolicyKind lru = PolicyKind::two_list_lru;
static_assert(lru == kDefaultPolicy, "the table says what the default is called");

constexpr size default_value(size value) { return value; }
constexpr size default_value(int value) { return static_cast<size>(value); }
constexpr flag default_value(flag value) { return value; }
constexpr string default_value(const char* value) { return string(value); }
constexpr backend default_value(backend value) { return value; }
constexpr policy default_value(policy value) { return value; }

struct Fields {
#define POLDER_OPTION(identifier, name, type, initial, argument, help) \
  option_type::type identifier = default_value(initial);
#include "runtime/options.inc"
};
}  // namespace option_type

using Options = option_type::Fields;

// What is wrong with an option, for one line of text.
struct OptionProblem {
  char option[48];    // its name, as far as it could be read
  char problem[208];  // NUL-terminated, as is `option`
};

enum class OptionsOutcome : unsigned char { valid, invalid };

// Overwrites the fields that `text` names and checks all of them against runtime/limits.h. A key that is given twice
// counts the last time; the empty text is valid. When invalid, `problem` says why and `options` is unspecified.
[[nodiscard]] OptionsOutcome parse_options(const char* text, Options& options, OptionProblem& problem);

// Bytes from "64M", "1.5G", "512KiB", "1048576": K, M, G and T, in either case, are powers of 1024, with an optional B or
// iB behind them; a fraction is rounded down to whole bytes. EINVAL when it is no size, ERANGE when it does not fit 63 bits.
Result<std::uint64_t> parse_size(const char* text, std::size_t length);

}  // namespace polder::runtime
