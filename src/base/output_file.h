// Files that appear under their final name only when they are complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tq {

// Writes PATH.part and renames it to PATH in commit(); the destructor removes what was not committed.
class OutputFile {
 public:
  static Result<OutputFile> create(const std::string& path);
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
  OutputFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  Unexpected system_error(const char* action) const;
  std::string path_;
  int fd_;
  uint64_t size_ = 0;
};

Status write_file(const std::string& path, std::string_view text);

// Before long work: whether `path`, which need not exist, has room for so many bytes. Errors: kNoResource with both figures.
Status check_free_space(const std::string& path, uint64_t bytes);

}  // namespace tq
