// Parts of stored tensors, as strict codecs look for them.
#pragma once

#include <string>
#include <string_view>

#include "codec/codec.h"

namespace tq {

// Errors: kBadInput where the tensor has no such part, or one of another type. where: for the message.
Result<const TensorView*> checked_part(const PackedTensor& tensor, const std::string& where, std::string_view name, DType dtype);
// Of another number of elements, too.
Result<const TensorView*> checked_part(const PackedTensor& tensor, const std::string& where, std::string_view name, DType dtype,
                                       int64_t count);
Status check_count(const TensorView& part, const std::string& where, std::string_view name, int64_t expected);

}  // namespace tq
