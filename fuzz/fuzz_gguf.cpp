// A GGUF file of any bytes is refused, or everything it offers can be read.
#include <algorithm>
#include <cstdint>

#include "base/check.h"
#include "io/gguf.h"
#include "tensor/ggml_types.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = tq::gguf::File::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file) return 0;
  for (const std::string& key : (*file)->keys()) {
    TQ_CHECK((*file)->has(key));
    (void)(*file)->string(key);
    (void)(*file)->integer(key, INT64_MIN, INT64_MAX);
    (void)(*file)->number(key);
    (void)(*file)->boolean_or(key, false);
    (void)(*file)->strings(key);
    (void)(*file)->numbers(key);
    (void)(*file)->integers(key);
  }
  uint64_t sum = 0, bytes = 0;
  for (const tq::gguf::Tensor& tensor : (*file)->tensors()) {
    TQ_CHECK((*file)->find(tensor.name) == &tensor);
    TQ_CHECK(tq::ggml_type(tensor.type) != nullptr && tq::element_count(tensor.shape) >= 0);
    std::for_each(tensor.data, tensor.data + tensor.bytes, [&](std::byte b) { sum += static_cast<uint64_t>(b); });
    bytes += tensor.bytes;
  }
  TQ_CHECK(bytes <= size && sum <= 255 * bytes);
  return 0;
}
