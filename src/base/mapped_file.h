// A read-only file in memory. Pages are read when they are touched, so a 140 GB model costs address space only.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace tq {

class MappedFile {
 public:
  // Errors: kBadInput when the file is missing, a directory, unreadable or cannot be mapped.
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// The whole of a small text file, or what a pipe gives until it ends. Errors: kBadInput when it is missing, unreadable or larger than
// max_bytes.
Result<std::string> read_text_file(const std::string& path, size_t max_bytes = size_t{1} << 30);

}  // namespace tq
