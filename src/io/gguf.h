// GGUF files, versions 2 and 3, little endian: metadata and tensors of models for ggml programs.
// The format: ggml's docs/gguf.md. Nothing is copied out of the mapped file until it is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/tensor_view.h"

namespace tq::gguf {

struct Tensor {
  std::string name;                 // printable UTF-8, 1 to 128 bytes, unique
  uint32_t type = 0;                // a type that ggml_type() knows
  Shape shape;                      // outermost first (GGUF's order reversed), at most 4; the last is a multiple of the type's block size
  const std::byte* data = nullptr;  // aligned to general.alignment (8 at least) within its file
  uint64_t bytes = 0;
};

// Immutable; safe to read from several threads.
class File {
 public:
  // A file, or all parts of a split one given any of them: PREFIX-00001-of-00003.gguf with split.count 3. The first part's metadata count.
  // Errors: kBadInput with what is wrong and what to do. A file that opens is sound: every accessor below stays inside it.
  static Result<std::shared_ptr<const File>> open(const std::string& path);
  // One file in memory, which must outlive the result. Split parts are not searched for.
  static Result<std::shared_ptr<const File>> parse(std::span<const std::byte> bytes, const std::string& where);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& where() const;  // path for messages

  // Errors of all accessors: kBadInput when the key is missing (without _or), of another type or out of range.
  bool has(std::string_view key) const;
  // Bytes as they are in the file; not checked to be UTF-8.
  Result<std::string> string(std::string_view key) const;
  Result<std::string> string_or(std::string_view key, std::string_view fallback) const;
  // Any integer type of the file.
  Result<int64_t> integer(std::string_view key, int64_t min, int64_t max) const;
  Result<int64_t> integer_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const;
  // Any integer or floating type; finite.
  Result<double> number(std::string_view key) const;
  Result<double> number_or(std::string_view key, double fallback) const;
  Result<bool> boolean_or(std::string_view key, bool fallback) const;

  // Arrays of at most 2^24 elements; a scalar reads as an array of one.
  Result<std::vector<std::string>> strings(std::string_view key) const;
  Result<std::vector<double>> numbers(std::string_view key) const;    // may be infinite, never NaN
  Result<std::vector<int64_t>> integers(std::string_view key) const;  // bools read as 0 and 1

  std::vector<std::string> keys() const;  // in file order

  const std::vector<Tensor>& tensors() const;         // in file order, part after part
  const Tensor* find(std::string_view tensor) const;  // nullptr when there is none
  uint64_t file_bytes() const;                        // all parts
  std::vector<std::string> paths() const;             // of the files, part after part

 private:
  struct Content;
  explicit File(std::unique_ptr<Content> content);
  static Result<std::shared_ptr<const File>> open_part(const std::string& path);
  static Result<std::shared_ptr<const File>> join(const std::string& path, std::vector<std::shared_ptr<const File>> parts);
  std::unique_ptr<const Content> content_;
};

}  // namespace tq::gguf
