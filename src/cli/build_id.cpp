#include "cli/build_id.h"

#include <elf.h>
#include <link.h>

#include <cstring>
#include <fstream>

#include <fmt/format.h>

namespace tq::cli {
namespace {

constexpr size_t kDigits = 12;

size_t padded(size_t size) { return (size + 3) / 4 * 4; }

// The description of the build-id note in a segment of notes, as hexadecimal digits.
std::string id_in_notes(const char* at, const char* end) {
  while (at + sizeof(ElfW(Nhdr)) <= end) {
    ElfW(Nhdr) note;
    std::memcpy(&note, at, sizeof(note));
    const char* name = at + sizeof(note);
    const char* text = name + padded(note.n_namesz);
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0) {
      std::string digits;
      for (size_t i = 0; i < note.n_descsz && digits.size() < kDigits; ++i) digits += fmt::format("{:02x}", static_cast<uint8_t>(text[i]));
      return digits;
    }
    at = text + padded(note.n_descsz);
  }
  return {};
}

// Called for each loaded object, the program first.
int look_at_object(dl_phdr_info* info, size_t, void* out) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const char* begin = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    auto& id = *static_cast<std::string*>(out);
    if (id.empty()) id = id_in_notes(begin, begin + segment.p_memsz);
  }
  return 1;
}

}  // namespace

std::string build_id() {
  std::string id;
  dl_iterate_phdr(look_at_object, &id);
  return id.empty() ? "unknown" : id;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      if (const size_t colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return {};
}

}  // namespace tq::cli
