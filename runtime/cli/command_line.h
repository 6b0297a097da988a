// Words of the command line to settings and back. The options that the preload library shares come from
// runtime/options.inc; nothing here repeats a name, a default or a help text of that table.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace polder::cli {

inline constexpr const char kSizeForm[] = "a number of bytes or with a unit, as in 64M, 1.5G or 512K";

struct RunRequest {
  // POLDER_CONF's keys and values, for the options that were given, each once, sizes in bytes.
  std::vector<std::pair<std::string, std::string>> settings;
  std::string stats_file;      // empty: none wanted
  std::vector<char*> command;  // as execv wants it, without the closing null
  bool help = false;

  // Null when the option was not given.
  const std::string* find(const std::string& name) const;
  void set(const std::string& name, std::string value);
  // Of an option of type size; 0 when it was not given.
  std::uint64_t size(const std::string& name) const;
};

// `arguments` are those behind "run". Throws Failure on whatever is not understood.
RunRequest parse_run(const std::vector<char*>& arguments);

// "key:value,key:value", with `,` and `\` in values escaped by `\`.
std::string preload_configuration(const RunRequest& request);

std::string main_help();
std::string run_help();
std::string limit_help();

// The default of an option as its table has it.
std::string option_default(const std::string& name);

}  // namespace polder::cli
