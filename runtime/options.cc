#include "runtime/options.h"

#include <cerrno>

#include "runtime/limits.h"

namespace polder::runtime {
namespace {

constexpr std::uint64_t kLargestSize = ~std::uint64_t{0} >> 1;

// Appends to a fixed array and keeps it terminated; what does not fit is cut.
template <std::size_t kSize>
class Writer {
 public:
  explicit Writer(char (&target)[kSize]) : target_(target) { target_[0] = '\0'; }

  Writer& character(char value) {
    if (length_ + 1 < kSize) {
      target_[length_++] = value;
      target_[length_] = '\0';
    }
    return *this;
  }
  Writer& text(const char* string) {
    while (*string != '\0') character(*string++);
    return *this;
  }
  Writer& text(const char* string, std::size_t length) {
    for (std::size_t index = 0; index < length; ++index) character(string[index]);
    return *this;
  }
  Writer& number(std::uint64_t value) {
    if (value >= 10) number(value / 10);
    return character(static_cast<char>('0' + value % 10));
  }
  Writer& size(std::uint64_t bytes) {
    const char* units[] = {"", "K", "M", "G", "T"};
    unsigned unit = 0;
    for (; unit < 4 && bytes != 0 && bytes % 1024 == 0; ++unit) bytes /= 1024;
    return number(bytes).text(units[unit]);
  }

 private:
  char (&target_)[kSize];
  std::size_t length_ = 0;
};

struct Slice {
  const char* data;
  std::size_t length;
};

bool equal(Slice slice, const char* string) {
  std::size_t index = 0;
  for (; index < slice.length; ++index) {
    if (string[index] == '\0' || string[index] != slice.data[index]) return false;
  }
  return string[index] == '\0';
}

bool is_digit(char character) { return character >= '0' && character <= '9'; }

// 0 for what is no unit.
unsigned unit_shift(char unit) {
  constexpr const char* kUnits = "KkMmGgTt";
  for (unsigned index = 0; kUnits[index] != '\0'; ++index) {
    if (kUnits[index] == unit) return 10 * (index / 2 + 1);
  }
  return 0;
}

Result<std::uint64_t> parse_number(Slice text) {
  if (text.length == 0) return failure<std::uint64_t>(EINVAL);
  std::uint64_t value = 0;
  for (std::size_t index = 0; index < text.length; ++index) {
    if (!is_digit(text.data[index])) return failure<std::uint64_t>(EINVAL);
    if (value > kLargestSize / 10 - 1) return failure<std::uint64_t>(ERANGE);
    value = value * 10 + static_cast<std::uint64_t>(text.data[index] - '0');
  }
  return success(value);
}

template <std::size_t kSize>
bool take(Slice text, std::uint64_t& value, Writer<kSize>& why, const char* kind, Result<std::uint64_t> parsed) {
  if (!parsed.ok()) {
    why.character('\'').text(text.data, text.length).text("' is ");
    why.text(parsed.error.code() == ERANGE ? "too large for " : "not ").text(kind);
    return false;
  }
  value = parsed.value;
  return true;
}

enum class Kind : unsigned char { size, string, backend, policy, number, flag };

// One overload of read() per type of the table. Each says in `why` what it could not accept.
template <std::size_t kSize>
bool read(Kind kind, Slice text, std::uint64_t& value, Writer<kSize>& why) {
  if (kind == Kind::size) {
    return take(text, value, why, "a size such as 64M or 1.5G", parse_size(text.data, text.length));
  }
  return take(text, value, why, "a number", parse_number(text));
}

template <std::size_t kSize>
bool read(Kind, Slice text, os::IoBackend& value, Writer<kSize>& why) {
  if (equal(text, "auto")) {
    value = os::IoBackend::automatic;
  } else if (equal(text, "uring")) {
    value = os::IoBackend::uring;
  } else if (equal(text, "workers")) {
    value = os::IoBackend::workers;
  } else {
    why.character('\'').text(text.data, text.length).text("' is none of auto, uring, workers");
    return false;
  }
  return true;
}

template <std::size_t kSize>
bool read(Kind, Slice text, PolicyKind& value, Writer<kSize>& why) {
  constexpr struct {
    const char* name;
    PolicyKind kind;
  } kPolicies[]{{"fifo", PolicyKind::fifo},
                {"clock", PolicyKind::clock},
                {"enhanced-clock", PolicyKind::enhanced_clock},
                {"lru", PolicyKind::two_list_lru},
                {"mglru", PolicyKind::multi_gen_lru}};
  for (const auto& policy : kPolicies) {
    if (!equal(text, policy.name)) continue;
    value = policy.kind;
    return true;
  }
  why.character('\'').text(text.data, text.length).text("' is none of fifo, clock, enhanced-clock, lru, mglru");
  return false;
}

template <std::size_t kSize>
bool read(Kind, Slice text, bool& value, Writer<kSize>& why) {
  if (!equal(text, "0") && !equal(text, "1")) {
    why.character('\'').text(text.data, text.length).text("' is neither 0 nor 1");
    return false;
  }
  value = equal(text, "1");
  return true;
}

template <std::size_t kSize>
bool read(Kind, Slice text, OptionText& value, Writer<kSize>& why) {
  std::size_t length = 0;
  for (std::size_t index = 0; index < text.length; ++index) {
    if (text.data[index] == '\\' && index + 1 < text.length) ++index;
    if (length + 1 >= OptionText::kCapacity) {
      why.text("longer than ").number(OptionText::kCapacity - 1).text(" bytes");
      return false;
    }
    value.text[length++] = text.data[index];
  }
  value.text[length] = '\0';
  return true;
}

template <std::size_t kSize>
bool within_limits(const Options& options, Writer<sizeof(OptionProblem::option)>& name, Writer<kSize>& why) {
  if (options.memory != 0 && options.memory < kMinimumLimit) {
    name.text("memory");
    why.size(options.memory).text(" is below the minimum of ").size(kMinimumLimit);
    return false;
  }
  if (options.swap_size != 0 && options.swap_size < kMinimumSwap) {
    name.text("swap-size");
    why.size(options.swap_size).text(" is below the minimum of ").size(kMinimumSwap);
    return false;
  }
  if (options.watermark_scale < kLeastWatermarkScale || options.watermark_scale > kMostWatermarkScale) {
    name.text("watermark-scale");
    why.number(options.watermark_scale).text(" is not between ").number(kLeastWatermarkScale);
    why.text(" and ").number(kMostWatermarkScale);
    return false;
  }
  if (options.swap_dir.empty()) {
    name.text("swap-dir");
    why.text("is empty");
    return false;
  }
  return true;
}

// Reads one "key:value"; false with `why` filled when it cannot.
template <std::size_t kSize>
bool read_option(Slice key, Slice value, Options& options, Writer<kSize>& why) {
#define POLDER_OPTION(identifier, name, type, initial, argument, help) \
  if (equal(key, name)) return read(Kind::type, value, options.identifier, why);
#include "runtime/options.inc"
  why.text("is not an option of this version");
  return false;
}

}  // namespace

Result<std::uint64_t> parse_size(const char* text, std::size_t length) {
  const char* cursor = text;
  const char* const end = text + length;
  if (cursor == end || !is_digit(*cursor)) return failure<std::uint64_t>(EINVAL);

  std::uint64_t whole = 0;
  for (; cursor != end && is_digit(*cursor); ++cursor) {
    if (whole > kLargestSize / 10) return failure<std::uint64_t>(ERANGE);
    whole = whole * 10 + static_cast<unsigned>(*cursor - '0');
  }
  std::uint64_t fraction = 0;  // in units of 1 / scale
  std::uint64_t scale = 1;
  const bool fractional = cursor != end && *cursor == '.';
  if (fractional) {
    ++cursor;
    if (cursor == end || !is_digit(*cursor)) return failure<std::uint64_t>(EINVAL);
    for (; cursor != end && is_digit(*cursor); ++cursor) {
      if (scale == 1'000'000'000'000'000) continue;  // what follows is less than a byte of any unit
      fraction = fraction * 10 + static_cast<unsigned>(*cursor - '0');
      scale *= 10;
    }
  }
  unsigned shift = 0;
  if (cursor != end) {
    shift = unit_shift(*cursor);
    if (shift != 0) ++cursor;
  }
  // "B" behind bytes or a unit, "iB" behind a unit.
  if (shift != 0 && end - cursor == 2 && (*cursor == 'i' || *cursor == 'I')) ++cursor;
  if (end - cursor == 1 && (*cursor == 'b' || *cursor == 'B')) ++cursor;
  if (cursor != end || (fractional && shift == 0)) return failure<std::uint64_t>(EINVAL);
  if (whole > kLargestSize >> shift) return failure<std::uint64_t>(ERANGE);
  std::uint64_t part = 0;
  for (unsigned bit = 0; bit < shift; ++bit) {
    fraction *= 2;
    part = part * 2 + (fraction >= scale ? 1 : 0);
    if (fraction >= scale) fraction -= scale;
  }
  return success((whole << shift) + part);
}

OptionsOutcome parse_options(const char* text, Options& options, OptionProblem& problem) {
  Writer name(problem.option);
  Writer why(problem.problem);
  const char* cursor = text;
  while (*cursor != '\0') {
    Slice key{cursor, 0};
    while (*cursor != '\0' && *cursor != ':' && *cursor != ',') ++cursor;
    key.length = static_cast<std::size_t>(cursor - key.data);
    if (*cursor != ':') {
      name.text(key.data, key.length);
      why.text("has no value; write it as key:value");
      return OptionsOutcome::invalid;
    }
    ++cursor;
    Slice value{cursor, 0};
    while (*cursor != '\0' && *cursor != ',') cursor += *cursor == '\\' && cursor[1] != '\0' ? 2 : 1;
    value.length = static_cast<std::size_t>(cursor - value.data);
    if (!read_option(key, value, options, why)) {
      name.text(key.data, key.length);
      return OptionsOutcome::invalid;
    }
    if (*cursor == ',') ++cursor;
  }
  return within_limits(options, name, why) ? OptionsOutcome::valid : OptionsOutcome::invalid;
}

}  // namespace polder::runtime
