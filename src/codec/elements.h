// Rows of a stored matrix as plain elements, for files.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/thread_pool.h"
#include "codec/codec.h"

namespace tq {

// Rows [begin, end) of the tensor seen as [rows(), columns()].
struct ElementRows {
  const std::string& name;  // for messages
  const PackedTensor& tensor;
  int64_t begin = 0, end = 0;
  DType dtype = DType::kF32;     // F32, F16 or BF16
  std::string_view source = {};  // the file, for messages; empty: whoever asks says it
};

bool are_finite(std::span<const float> values);

// Decodes the rows in bands and calls sink with the elements of each, in order. threads: null: the caller's alone.
// Errors: kBadInput for values that are no finite numbers or that the type rounds to infinity; the sink's.
Status write_elements(const ElementRows& rows, const std::function<Status(std::span<const std::byte>)>& sink, ThreadPool* threads);

}  // namespace tq
