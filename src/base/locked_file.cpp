#include "base/locked_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tq {
namespace {

Unexpected in_use(const std::string& path) {
  return fail(ErrorCode::kFailed, "{}: another process is at work there; wait until it is done", path);
}

Unexpected system_error(const std::string& path, const char* action) {
  const int error = errno;
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return fail(full ? ErrorCode::kNoResource : ErrorCode::kFailed, "{}: {} failed ({})", path, action, std::strerror(error));
}

// Whether the path still leads to the file.
bool is_at(int fd, const std::string& path) {
  struct stat own {
  }, there{};
  return fstat(fd, &own) == 0 && stat(path.c_str(), &there) == 0 && own.st_dev == there.st_dev && own.st_ino == there.st_ino;
}

}  // namespace

Result<LockedFile> LockedFile::locked(const std::string& path, int fd) {
  LockedFile file(path, fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return in_use(path);
  if (!is_at(fd, path)) return in_use(path);
  return file;
}

Result<std::optional<LockedFile>> LockedFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return std::optional<LockedFile>();
  if (fd < 0) return system_error(path, "opening");
  TQ_ASSIGN(LockedFile file, locked(path, fd));
  return std::optional<LockedFile>(std::move(file));
}

Result<LockedFile> LockedFile::create(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0 && errno == EEXIST) return in_use(path);
  if (fd < 0) return system_error(path, "creating");
  return locked(path, fd);
}

LockedFile::LockedFile(LockedFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

LockedFile& LockedFile::operator=(LockedFile&& other) noexcept {
  std::swap(path_, other.path_), std::swap(fd_, other.fd_);
  return *this;
}

LockedFile::~LockedFile() {
  if (fd_ >= 0) ::close(fd_);
}

Result<std::string> LockedFile::text() const {
  std::string out;
  char buffer[1024];
  for (;;) {
    const ssize_t count = pread(fd_, buffer, sizeof buffer, static_cast<off_t>(out.size()));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error(path_, "reading");
    if (count == 0) return out;
    out.append(buffer, static_cast<size_t>(count));
  }
}

Status LockedFile::write(std::string_view text) {
  if (ftruncate(fd_, 0) != 0) return system_error(path_, "emptying");
  for (size_t at = 0; at < text.size();) {
    const ssize_t count = pwrite(fd_, text.data() + at, text.size() - at, static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error(path_, "writing");
    at += static_cast<size_t>(count);
  }
  if (fsync(fd_) != 0 && errno != EINVAL) return system_error(path_, "flushing");
  return {};
}

Status LockedFile::remove() { return unlink(path_.c_str()) == 0 ? Status() : system_error(path_, "removing"); }

}  // namespace tq
