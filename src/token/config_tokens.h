// The tokens that a tokenizer_config.json names.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "token/added_tokens.h"

namespace tq {

// In the order in which Hugging Face appends those that are missing.
inline constexpr const char* kNamedTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

// A field that is a text, or an object with the field "content"; empty when it is neither.
std::string token_name(const Json& config, const char* key);

// Everything but the id. Errors: kBadInput.
Result<AddedToken> read_added_token(const JsonReader& reader);

// What the file adds to the pieces of a tokenizer.model: added_tokens_decoder ({"32000": {"content": …}, …}), and bos_token,
// additional_special_tokens and the like, which are control tokens and get the next free ids where nothing has their text. A token that has
// a piece's id takes its place. They are found in the text as it is, whatever "normalized" says.
// Errors: kBadInput for a text with two ids, an id with two texts, and one far beyond all tokens before it.
Result<std::vector<AddedToken>> config_tokens(const Json& config, const std::vector<std::string>& pieces, const std::string& where);

}  // namespace tq
