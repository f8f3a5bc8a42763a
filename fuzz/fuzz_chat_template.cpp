// A template of any bytes is refused, or renders some conversation within its limits, or ends in a one-line error.
#include <cstdint>

#include "base/check.h"
#include "token/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = tq::ChatTemplate::parse(std::string(reinterpret_cast<const char*>(data), size));
  if (!parsed) {
    TQ_CHECK(parsed.error().message.find('\n') == std::string::npos);
    return 0;
  }
  tq::ChatRequest request;
  request.messages = {{{"role", "user"}, {"content", "Hi \xc3\xa4"}}, {{"role", "assistant"}, {"content", nullptr}, {"n", 1.5}}};
  request.bos_token = "<s>";
  request.eos_token = "</s>";
  const auto text = parsed->render(request, {.steps = 20'000, .bytes = 4 << 20});
  TQ_CHECK(text || text.error().message.find('\n') == std::string::npos);
  return 0;
}
