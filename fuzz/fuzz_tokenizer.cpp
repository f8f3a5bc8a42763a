// A tokenizer file of any bytes is refused, or encodes and decodes within its vocabulary.
#include <cstdint>

#include "base/check.h"
#include "token/tokenizer.h"
#include "token/utf8.h"

namespace {

void use(const tq::Tokenizer& tokenizer) {
  const std::string text = "Hi, wo\xcc\x81rld!  12345 \xe4\xb8\xad <s>\xf0\x9f\x91\x8d\xff\n\n x";
  for (const bool parse_special : {false, true}) {
    const std::vector<tq::TokenId> ids = tokenizer.encode(text, parse_special, true);
    for (const tq::TokenId id : ids) TQ_CHECK(id >= 0 && id < tokenizer.size());
    tq::StreamDecoder decoder(tokenizer, true);
    for (const tq::TokenId id : ids) {
      const std::string piece = decoder.push(id);
      TQ_CHECK(tq::utf8_repair(piece) == piece);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto json = tq::parse_json(bytes, "fuzz")) {
    const auto tokenizer = tq::Tokenizer::from_json(*json, tq::Json::object(), "fuzz");
    if (tokenizer) use(*tokenizer);
    return 0;
  }
  const auto tokenizer = tq::Tokenizer::from_sentencepiece(std::as_bytes(std::span(data, size)), tq::Json::object(), "fuzz");
  if (tokenizer) use(*tokenizer);
  return 0;
}
