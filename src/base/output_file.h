// Files that appear under their final name only when they are complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tq {

// Writes a part file beside PATH and renames it to PATH in commit(); the destructor removes what was not committed.
class OutputFile {
 public:
  // In a folder that is the program's own: the part file is PATH.part, and what a killed process left under that name is gone.
  static Result<OutputFile> create(const std::string& path);
  // In a folder where anything may lie: the part file is a new one, under a name that no other file has.
  static Result<OutputFile> create_among_others(const std::string& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  // Errors: kNoResource when the disk is full, kFailed otherwise; the message names the file.
  Status write(std::span<const std::byte> bytes);
  Status write(std::string_view text);
  uint64_t size() const { return size_; }
  // Flushes to the disk, then renames.
  Status commit();

 private:
  OutputFile(std::string path, std::string part, int fd) : path_(std::move(path)), part_(std::move(part)), fd_(fd) {}
  Unexpected system_error(const char* action) const;
  std::string path_, part_;
  int fd_;
  uint64_t size_ = 0;
};

// As the two above.
Status write_file(const std::string& path, std::string_view text);
Status write_file_among_others(const std::string& path, std::string_view text);

// Before long work: whether `path`, which need not exist, has room for so many bytes. Errors: kNoResource with both figures.
Status check_free_space(const std::string& path, uint64_t bytes);

}  // namespace tq
