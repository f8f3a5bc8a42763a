#include "codec/checked_part.h"

namespace tq {

Result<const TensorView*> checked_part(const PackedTensor& tensor, const std::string& where, std::string_view name, DType dtype) {
  const TensorView* part = tensor.part(name);
  if (!part) return bad_input("{}: the {} tensor has no {}; quantize the model again", where, codec_of(tensor.codec).info().name, name);
  if (part->dtype != dtype) return bad_input("{}: {} is {}, {} was expected", where, name, dtype_name(part->dtype), dtype_name(dtype));
  return part;
}

Result<const TensorView*> checked_part(const PackedTensor& tensor, const std::string& where, std::string_view name, DType dtype,
                                       int64_t count) {
  TQ_ASSIGN(const TensorView* part, checked_part(tensor, where, name, dtype));
  TQ_TRY(check_count(*part, where, name, count));
  return part;
}

Status check_count(const TensorView& part, const std::string& where, std::string_view name, int64_t expected) {
  if (part.count() == expected) return {};
  return bad_input("{}: {} has {} elements, {} were expected; the file is damaged", where, name, part.count(), expected);
}

}  // namespace tq
