// Perplexity of a model, and its divergence from the original: both run window by window, no logits are stored.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "eval/statistics.h"
#include "graph/network.h"
#include "token/tokenizer.h"

namespace tq {

// Which positions of a window count. Windows don't overlap; the first token of each is replaced by bos if the vocabulary adds one.
//   kAll         every token but the first of its window is predicted (the usual Hugging Face evaluation)
//   kSecondHalf  the second half of each window (llama.cpp's perplexity)
enum class Protocol : uint8_t { kAll, kSecondHalf };
std::string_view protocol_name(Protocol protocol);
std::optional<Protocol> protocol_from_name(std::string_view name);

struct EvalText {
  std::string name;
  std::vector<TokenId> tokens;
};

struct EvalOptions {
  int64_t window = 1024;
  int64_t windows = 40;  // at most; from the front of the text
  Protocol protocol = Protocol::kAll;
  int64_t rows = 0;  // of a network's tokens that are computed at once, as decoding does; 0: the window, as prompts are
  // Whatever `rows` and the window are, no pass has more; above the usual windows, so that their figures stay.
  int64_t most_rows = kLongestPass;
  bool with_float = true;  // also measure the divergence with float activations, where a model has them otherwise
};

// One number per scored position, windows one after another; natural logarithms. A position's divergences are 0 without an original.
struct Positions {
  int64_t per_window = 0;
  std::vector<double> loss;           // -log p(next token)
  std::vector<double> loss_original;  // empty without an original
  std::vector<double> kl;             // sum_v p log(p / q), p the original's; as the user's path computes q
  std::vector<double> kl_float;       // the same with float activations in q; empty when the model has no other way
  std::vector<double> same_top;       // 1 where both rank the same token first
};

struct TextResult {
  std::string name;
  int64_t window = 0, windows = 0, tokens = 0;
  Mean loss, loss_original, loss_difference;  // paired, over windows
  Mean kl, kl_float, top1;
  double kl_median = 0, kl_99 = 0;  // of positions
  Positions positions;
};

// Fills the figures by the positions, which are windows as a whole.
void summarize(TextResult& result);

// Every network on the same windows, each window against one pass of the original; a result for each network, in order.
// original may be null: then only the losses are measured.
// done, unless null: for each network the positions of the first windows, as an interrupted call left them (none: empty); those that all
// networks have are not measured again. When this call is interrupted, what it has is put there.
// Errors: kBadInput when the text is shorter than one window or the vocabularies differ; kNoResource; kInterrupted.
Result<std::vector<TextResult>> evaluate(std::span<Network* const> networks, Network* original, const EvalText& text,
                                         const EvalOptions& options, const Context& context, std::vector<Positions>* done = nullptr);

}  // namespace tq
