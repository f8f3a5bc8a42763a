// Codecs: how a matrix is stored. The wire ids are part of the artifact format and are never reused.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/tensor_view.h"

namespace tq {

enum class CodecId : uint8_t {
  kPlain = 0,    // elements of a DType
  kGgml = 1,     // blocks of a GGUF type
  kGrid = 2,     // the superposition trellis
  kScalar = 3,   // uniform codes with scales and zero points
  kE8p = 4,      // vectors of eight from the E8 lattice
  kMixed = 255,  // rows of several tensors, in memory alone
};

// A tensor as it is stored: one or more arrays, canonical layout, usually in a mapped file.
struct PackedTensor {
  struct Part {
    std::string name;  // "weight", "bits", "row_scale", …: fixed by the codec
    TensorView view;
  };
  CodecId codec = CodecId::kPlain;
  uint32_t variant = 0;  // ggml: the type's id
  Shape shape;           // logical: [R, C], [E, R, C] or [N]
  std::vector<Part> parts;
  // GGUF stores the query and key rows of Llama models with the two halves of a head interleaved: logical row
  // h * d + i + (d / 2) * s lies at h * d + 2 * i + s. Then this is d, the head dimension; otherwise 0. Decoding undoes it.
  int64_t interleaved_head_dim = 0;
  float offset = 0.0f;                // added to every decoded element (Gemma's norms in GGUF carry + 1: -1 undoes it)
  std::shared_ptr<const void> owner;  // keeps the memory of the parts alive

  const TensorView* part(std::string_view name) const;
  int64_t columns() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const { return columns() == 0 ? 0 : element_count(shape) / columns(); }  // all leading dimensions together
  uint64_t bytes() const;  // of all parts that belong to this tensor alone (shared taps and signs are not counted)
};

struct CodecInfo {
  std::string_view name;
  CodecId id;
  int version;
  bool is_whole = false;  // rows cannot be decoded alone: decode_rows decodes the whole matrix each time
  int64_t cut_unit = 0;   // matrices may be cut where the number of rows is a multiple of it; 0: nowhere
};

// The slow and exact side of a codec: the meaning of the format.
class Codec {
 public:
  virtual ~Codec() = default;
  virtual CodecInfo info() const = 0;
  // Whether the parts are all there and have the sizes that the shape asks for. decode_rows may trust a validated tensor.
  virtual Status validate(const PackedTensor& tensor, const std::string& where) const = 0;
  // Rows [begin, begin + count) of the tensor seen as [rows(), columns()], in the original basis. out: [count, C].
  virtual void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) const = 0;
  // The parts of a cut (below), and what keeps them alive. Only where there is a cut_unit.
  virtual void cut_rows(const PackedTensor& tensor, int64_t expert, int64_t begin, int64_t count, PackedTensor& out) const;
};

std::span<const Codec* const> codecs();
const Codec& codec_of(CodecId id);

// Decodes with row order and offset undone: what the model means by the tensor. out: [count, C].
void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out);
Buffer<float> decode(const PackedTensor& tensor);

// Rows where a matrix of the tensor may be cut are multiples of it; 0: it cannot be cut.
int64_t cut_unit(const PackedTensor& tensor);
// Rows [begin, begin + count) of matrix `expert` of a stack (0 otherwise), [count, C]: every product with them, and their decoded values,
// are bit for bit those of the whole. Of memory of its own it has what the rows need of others. Not for files. begin: a multiple of
// cut_unit(); begin + count too, or the last row.
PackedTensor cut_rows(const PackedTensor& tensor, int64_t expert, int64_t begin, int64_t count);

// One plain tensor over memory that `owner` keeps.
PackedTensor plain_tensor(TensorView view, std::shared_ptr<const void> owner);
PackedTensor plain_tensor(Shape shape, Buffer<float> values);

}  // namespace tq
