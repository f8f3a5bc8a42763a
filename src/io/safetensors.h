// The safetensors format: plain tensors with a JSON header, in one file or in shards with an index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/output_file.h"
#include "base/result.h"
#include "tensor/tensor_view.h"

namespace tq::safetensors {

struct Tensor {
  std::string name;  // UTF-8 without control characters
  TensorView view;   // may be unaligned for its type when the file was written so: to_float() does not mind, as<T>() does
};

// Immutable; safe to read from several threads. The views live as long as the archive.
class Archive {
 public:
  // One file. Errors: kBadInput with what is wrong and what to do. As strict as the reference implementation, and beyond it:
  // fields it ignores, space before the header's '{', control characters in names and types that TensorView lacks (F4, F8_E8M0, C64, …) are
  // refused.
  static Result<std::shared_ptr<const Archive>> open_file(const std::string& path);
  // model.safetensors of a model's directory, or else the shards of its model.safetensors.index.json.
  // Tensors of a shard that the index does not list are kept; a name in two shards is refused.
  static Result<std::shared_ptr<const Archive>> open_directory(const std::string& dir);
  // One file in memory, which must outlive the result.
  static Result<std::shared_ptr<const Archive>> parse(std::span<const std::byte> bytes, const std::string& where);
  ~Archive();
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  const std::vector<Tensor>& tensors() const;                  // in file order, shard after shard by name
  const TensorView* find(std::string_view name) const;         // nullptr when there is none
  const std::map<std::string, std::string>& metadata() const;  // "__metadata__"; of shards the first that has a key
  const std::vector<std::string>& files() const;               // their paths, or `where`
  uint64_t file_bytes() const;                                 // all files, without the index

 private:
  struct Content;
  explicit Archive(std::unique_ptr<Content> content);
  std::unique_ptr<const Content> content_;
};

struct TensorInfo {
  std::string name;
  DType dtype = DType::kU8;
  Shape shape;
};

// Moves tensors whose size is a multiple of 64 bytes to the front, and the others behind them by falling element size; otherwise keeps
// their order. Then the offsets of the former are multiples of 64 and those of the latter multiples of their element size.
// The format forbids holes, so order is the only means of alignment.
void order_for_alignment(std::vector<TensorInfo>& tensors);

// Writes one file piece by piece. The data section begins at a multiple of 64 bytes; see order_for_alignment for the tensors within it.
// Same arguments, same bytes. The file appears under its name in finish() only; without it nothing is left behind.
class Writer {
 public:
  // Errors: kBadInput for a name twice, "__metadata__" as a name, text that is not UTF-8, an impossible shape or a header above the
  // format's 100 MB; those of OutputFile.
  static Result<Writer> create(const std::string& path, std::vector<TensorInfo> tensors, std::map<std::string, std::string> metadata = {});
  // The next bytes of the tensors, in the order given to create; pieces may end anywhere.
  Status append(std::span<const std::byte> bytes);
  Status finish();  // every byte must have been appended
  // Exactly the size of the file that create() with these would write; they must be sound.
  static uint64_t file_size(const std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata);

 private:
  Writer(OutputFile file, uint64_t data_bytes) : file_(std::move(file)), left_(data_bytes) {}
  OutputFile file_;
  uint64_t left_;  // bytes of the data section not yet appended
};

}  // namespace tq::safetensors
