#include "base/mapped_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tq {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};  // a pipe is refused, not waited for
  if (file.fd < 0) return bad_input("{}: cannot be opened ({})", path, std::strerror(errno));
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return bad_input("{}: cannot be examined ({})", path, std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return bad_input("{}: not a regular file", path);
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  mapped->size_ = static_cast<size_t>(info.st_size);
  if (mapped->size_ > 0) {
    void* address = ::mmap(nullptr, mapped->size_, PROT_READ, MAP_SHARED, file.fd, 0);
    if (address == MAP_FAILED) return bad_input("{}: cannot be mapped into memory ({})", path, std::strerror(errno));
    mapped->data_ = static_cast<const std::byte*>(address);
  }
  return std::shared_ptr<const MappedFile>(std::move(mapped));
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

namespace {

// What a pipe gives until it ends, more than max_bytes if there is more.
Result<std::string> read_stream(int fd, const std::string& path, size_t max_bytes) {
  std::string text;
  char piece[1 << 16];
  while (text.size() <= max_bytes) {
    const ssize_t count = ::read(fd, piece, sizeof piece);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return bad_input("{}: cannot be read ({})", path, std::strerror(errno));
    if (count == 0) break;
    text.append(piece, static_cast<size_t>(count));
  }
  return text;
}

bool is_stream(const struct stat& info) { return S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode) || S_ISSOCK(info.st_mode); }

}  // namespace

Result<std::string> read_text_file(const std::string& path, size_t max_bytes) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && is_stream(info)) {
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.fd < 0) return bad_input("{}: cannot be opened ({})", path, std::strerror(errno));
    TQ_ASSIGN(std::string text, read_stream(file.fd, path, max_bytes));
    if (text.size() > max_bytes) return bad_input("{}: more than the {} bytes expected of such a file", path, max_bytes);
    return text;
  }
  TQ_ASSIGN(const auto file, MappedFile::open(path));
  if (file->bytes().size() > max_bytes)
    return bad_input("{}: {} bytes, more than the {} expected of such a file", path, file->bytes().size(), max_bytes);
  return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
}

}  // namespace tq
