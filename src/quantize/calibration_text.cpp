// The calibration text inside the program, so that it works from anywhere.
#include "quantize/calibration.h"

#define TQ_EMBED(symbol, file)                                                                                       \
  asm(".section .rodata\n.global tq_text_" #symbol "\ntq_text_" #symbol ":\n.incbin \"" TQ_CALIBRATION_DATA "/" file \
      "\"\n.global tq_text_end_" #symbol "\ntq_text_end_" #symbol ":\n.byte 0\n.text\n");                            \
  extern "C" const char tq_text_##symbol[];                                                                          \
  extern "C" const char tq_text_end_##symbol[];

TQ_EMBED(web, "web.txt")
TQ_EMBED(encyclopedia, "encyclopedia.txt")
TQ_EMBED(code, "code.txt")
TQ_EMBED(functions, "functions.txt")
TQ_EMBED(arithmetic, "arithmetic.txt")
TQ_EMBED(languages, "languages.txt")
TQ_EMBED(technical, "technical.txt")

#undef TQ_EMBED

namespace tq {

// Rounding costs a model more on code than on prose: a few positions that no other text resembles carry the loss (docs/method.md).
constexpr int64_t kCodeWeight = 3;

constexpr struct {
  const char *name, *begin, *end;
  int64_t weight = 1;
} kBuiltIn[] = {{"web", tq_text_web, tq_text_end_web},
                {"encyclopedia", tq_text_encyclopedia, tq_text_end_encyclopedia},
                {"code", tq_text_code, tq_text_end_code, kCodeWeight},
                {"functions", tq_text_functions, tq_text_end_functions},
                {"arithmetic", tq_text_arithmetic, tq_text_end_arithmetic},
                {"languages", tq_text_languages, tq_text_end_languages},
                {"technical", tq_text_technical, tq_text_end_technical}};

std::vector<CalibrationText> built_in_calibration() {
  std::vector<CalibrationText> texts;
  for (const auto& text : kBuiltIn) texts.push_back({text.name, {text.begin, text.end}, text.weight});
  return texts;
}

size_t calibration_texts(const QuantizeOptions& options) {
  return options.calibration.empty() ? std::size(kBuiltIn) : options.calibration.size();
}

}  // namespace tq
