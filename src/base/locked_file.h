// A small file that one process has at a time: what it says is about something that two must not work on at once.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tq {

// The lock is the process's that opened or made the file; it ends with the object, or the process. Where the file system has no locks (some
// of networks), everybody gets one.
class LockedFile {
 public:
  // None when there is no such file. Errors: kFailed when another process has it, or removed it just now.
  static Result<std::optional<LockedFile>> open(const std::string& path);
  // Empty. Errors: kFailed when it is there already.
  static Result<LockedFile> create(const std::string& path);
  LockedFile(LockedFile&& other) noexcept;
  LockedFile& operator=(LockedFile&& other) noexcept;
  ~LockedFile();

  Result<std::string> text() const;
  // Instead of what it said, in the same place: a reader may see a part. On the disk when this returns. Errors: kNoResource when it is
  // full.
  Status write(std::string_view text);
  // The lock stays.
  Status remove();

 private:
  LockedFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  static Result<LockedFile> locked(const std::string& path, int fd);
  std::string path_;
  int fd_;
};

}  // namespace tq
