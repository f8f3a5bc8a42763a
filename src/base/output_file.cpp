#include "base/output_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <unistd.h>

namespace tq {
namespace {

std::string part_name(const std::string& path) { return path + ".part"; }

}  // namespace

Result<OutputFile> OutputFile::create(const std::string& path) {
  const int fd = ::open(part_name(path).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return fail(ErrorCode::kFailed, "{}: cannot be created ({})", path, std::strerror(errno));
  return OutputFile(path, fd);
}

OutputFile::OutputFile(OutputFile&& other) noexcept : path_(std::move(other.path_)), fd_(other.fd_), size_(other.size_) { other.fd_ = -1; }

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(part_name(path_).c_str());
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
  if (std::rename(part_name(path_).c_str(), path_.c_str()) == 0) return {};
  auto error = system_error("renaming");
  ::unlink(part_name(path_).c_str());
  return error;
}

Status check_free_space(const std::string& path, uint64_t bytes) {
  std::filesystem::path place = std::filesystem::absolute(path);
  std::error_code error;
  while (place.has_relative_path() && !std::filesystem::exists(place, error)) place = place.parent_path();
  const std::filesystem::space_info space = std::filesystem::space(place, error);
  if (error || space.available >= bytes) return {};
  return fail(ErrorCode::kNoResource, "{}: {:.3f} GB are needed there, {:.3f} GB are free; free some space or choose another place", path,
              static_cast<double>(bytes) * 1e-9, static_cast<double>(space.available) * 1e-9);
}

Status write_file(const std::string& path, std::string_view text) {
  TQ_ASSIGN(auto file, OutputFile::create(path));
  TQ_TRY(file.write(text));
  return file.commit();
}

}  // namespace tq
