#include "base/output_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <unistd.h>

namespace tq {
namespace {

constexpr int kMostParts = 1000;  // of one file that are tried

std::string part_name(const std::string& path) { return path + ".part"; }

// A file that was not there before, or -1 and errno.
int open_new(const std::string& path) { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644); }

Unexpected not_created(const std::string& path) {
  return fail(ErrorCode::kFailed, "{}: cannot be created ({})", path, std::strerror(errno));
}

Status write_all(Result<OutputFile> file, std::string_view text) {
  if (!file) return Unexpected(file.error());
  TQ_TRY(file->write(text));
  return file->commit();
}

}  // namespace

Result<OutputFile> OutputFile::create(const std::string& path) {
  const std::string part = part_name(path);
  ::unlink(part.c_str());
  const int fd = open_new(part);
  if (fd < 0) return not_created(path);
  return OutputFile(path, part, fd);
}

Result<OutputFile> OutputFile::create_among_others(const std::string& path) {
  std::string part = part_name(path);
  int fd = open_new(part);
  for (int i = 2; fd < 0 && errno == EEXIST && i <= kMostParts; ++i) {
    part = part_name(path) + std::to_string(i);
    fd = open_new(part);
  }
  if (fd < 0) return not_created(path);
  return OutputFile(path, part, fd);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), part_(std::move(other.part_)), fd_(other.fd_), size_(other.size_) {
  other.fd_ = -1;
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(part_.c_str());
}

Unexpected OutputFile::system_error(const char* action) const {
  const int error = errno;
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return fail(full ? ErrorCode::kNoResource : ErrorCode::kFailed, "{}: {} failed after {} bytes ({}){}", path_, action, size_,
              std::strerror(error), full ? "; free some space, then run the command again, an unfinished quantization with --resume" : "");
}

Status OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error("writing");
    size_ += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

Status OutputFile::write(std::string_view text) { return write(std::as_bytes(std::span(text.data(), text.size()))); }

Status OutputFile::commit() {
  if (::fsync(fd_) != 0 && errno != EINVAL) return system_error("flushing");
  ::close(fd_);
  fd_ = -1;
  if (std::rename(part_.c_str(), path_.c_str()) == 0) return {};
  auto error = system_error("renaming");
  ::unlink(part_.c_str());
  return error;
}

Status check_free_space(const std::string& path, uint64_t bytes) {
  std::error_code error;
  std::filesystem::path place = std::filesystem::absolute(path, error);
  while (place.has_relative_path() && !std::filesystem::exists(place, error)) place = place.parent_path();
  const std::filesystem::space_info space = std::filesystem::space(place, error);
  if (error || space.available >= bytes) return {};
  return fail(ErrorCode::kNoResource, "{}: {:.3f} GB are needed there, {:.3f} GB are free; free some space or choose another place", path,
              static_cast<double>(bytes) * 1e-9, static_cast<double>(space.available) * 1e-9);
}

Status write_file(const std::string& path, std::string_view text) { return write_all(OutputFile::create(path), text); }

Status write_file_among_others(const std::string& path, std::string_view text) {
  return write_all(OutputFile::create_among_others(path), text);
}

}  // namespace tq
