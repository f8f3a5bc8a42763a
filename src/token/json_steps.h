// The parts of tokenizer.json around the model.
#pragma once

#include "base/json.h"
#include "token/tokenizer_impl.h"

namespace tq {

// Each reads one part, which may be null, into impl. Errors: kBadInput naming a type or setting that is not supported.
Status read_normalizer(const Json& json, TokenizerImpl& impl);
Status read_pre_tokenizer(const Json& json, TokenizerImpl& impl);
Status read_post_processor(const Json& json, TokenizerImpl& impl);
Status read_decoder(const Json& json, TokenizerImpl& impl);

}  // namespace tq
