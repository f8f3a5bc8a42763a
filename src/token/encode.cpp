#include <algorithm>
#include <cstdlib>

#include <utf8proc.h>

#include "token/tokenizer_impl.h"
#include "token/utf8.h"

namespace tq {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // ▁

// Control tokens that end an answer in every vocabulary that has them. Others, like GLM's <|user|>, depend on the chat template.
constexpr const char* kEndOfTurn[] = {"<|im_end|>",
                                      "<|eot_id|>",
                                      "<|eom_id|>",
                                      "<|end|>",
                                      "<end_of_turn>",
                                      "<|endoftext|>",
                                      "<|end_of_text|>",
                                      "<EOT>",
                                      "_<EOT>",
                                      "<|end_of_turn|>",
                                      "<|END_OF_TURN_TOKEN|>",
                                      "<|return|>",
                                      "<|call|>",
                                      "<|eot|>",
                                      "<end_of_utterance>"};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  std::string out;
  size_t at = 0;
  for (size_t found = text.find(from); found != std::string::npos; found = text.find(from, at)) {
    out.append(text, at, found - at).append(to);
    at = found + from.size();
  }
  text = out.append(text, at);
}

std::string unicode_form(const std::string& text, UnicodeForm::Kind kind) {
  int options = UTF8PROC_STABLE;
  switch (kind) {
    case UnicodeForm::kNfc: options |= UTF8PROC_COMPOSE; break;
    case UnicodeForm::kNfd: options |= UTF8PROC_DECOMPOSE; break;
    case UnicodeForm::kNfkc: options |= UTF8PROC_COMPOSE | UTF8PROC_COMPAT; break;
    case UnicodeForm::kNfkd: options |= UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT; break;
    case UnicodeForm::kLowercase: {
      std::string out;
      for (size_t at = 0; at < text.size(); at += utf8_length(text, at))
        utf8_append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(utf8_decode(text, at)))));
      return out;
    }
  }
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                   static_cast<utf8proc_option_t>(options));
  if (length < 0) return text;
  std::string out(reinterpret_cast<char*>(mapped), static_cast<size_t>(length));
  std::free(mapped);
  return out;
}

void apply(const NormalizeStep& step, std::string& text) {
  if (const auto* form = std::get_if<UnicodeForm>(&step)) text = unicode_form(text, form->kind);
  if (const auto* replace = std::get_if<ReplaceText>(&step)) replace_all(text, replace->from, replace->to);
  if (const auto* prepend = std::get_if<PrependText>(&step); prepend && !text.empty()) text = prepend->text + text;
  if (const auto* replace = std::get_if<ReplaceRegex>(&step)) {
    std::string out;
    size_t at = 0;
    for (const auto& [begin, end] : replace->from.find_all(text)) {
      out.append(text, at, begin - at).append(replace->to);
      at = end;
    }
    text = out.append(text, at);
  }
  if (const auto* strip = std::get_if<StripSpace>(&step)) {
    size_t begin = 0, end = text.size();
    while (strip->left && begin < end && is_space_at(text, begin)) begin += utf8_length(text, begin);
    while (strip->right && end > begin && is_space_at(text, character_before(text, end))) end = character_before(text, end);
    text = text.substr(begin, end - begin);
  }
}

}  // namespace

Status TokenizerImpl::finish() {
  kinds.resize(tokens.size(), TokenKind::kNormal);
  for (size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], static_cast<TokenId>(i));
  byte_tokens_.fill(-1);
  for (size_t byte = 0; byte < 256; ++byte)
    if (const auto found = ids.find(fmt::format("<0x{:02X}>", byte)); found != ids.end()) byte_tokens_[byte] = found->second;
  added.index();
  const auto add_end = [&](TokenId id) {
    if (id >= 0 && std::find(end_of_turn.begin(), end_of_turn.end(), id) == end_of_turn.end()) end_of_turn.push_back(id);
  };
  add_end(eos);
  const bool is_harmony = ids.contains("<|return|>") && ids.contains("<|channel|>");  // there <|end|> ends a message, not the turn
  for (const char* name : kEndOfTurn) {
    const auto found = ids.find(name);
    if (found == ids.end()) continue;
    const AddedToken* token = added.by_id(found->second);
    if (token && !(is_harmony && std::string_view(name) == "<|end|>")) add_end(found->second);
  }
  return {};
}

std::vector<TokenId> TokenizerImpl::encode(std::string_view raw, const AddedSearch& search, bool add_special) const {
  const std::string text = utf8_repair(raw);
  std::vector<TokenId> out;
  if (add_special) out = prefix;
  size_t at = 0;
  bool is_first = true, after_special = true;
  for (const AddedTokens::Found& found : added.find(text, search)) {
    if (found.begin > at)
      encode_stretch(std::string_view(text).substr(at, found.begin - at), is_first, after_special, out), is_first = false;
    out.push_back(found.token->id);
    is_first = false;
    after_special = found.token->special;
    at = found.end;
  }
  if (at < text.size()) encode_stretch(std::string_view(text).substr(at), is_first, after_special, out);
  if (add_special) out.insert(out.end(), suffix.begin(), suffix.end());
  return out;
}

std::string TokenizerImpl::normalized(std::string_view text, bool wants_prefix) const {
  std::string out(text);
  for (const NormalizeStep& step : normalize) apply(step, out);
  if (prefix_after_special && wants_prefix) out = " " + out;
  if (prefix_after_special || (byte_fallback && !metaspace && normalize.empty() && !byte_level)) replace_all(out, " ", kSpaceMark);
  return out;
}

void TokenizerImpl::encode_stretch(std::string_view raw, bool is_first, bool after_special, std::vector<TokenId>& out) const {
  std::string text = normalized(raw, after_special);
  if (metaspace) {
    replace_all(text, " ", kSpaceMark);
    const bool prepends = metaspace->prepend == Metaspace::kAlways || (metaspace->prepend == Metaspace::kFirst && is_first);
    if (prepends && !text.starts_with(kSpaceMark)) text = std::string(kSpaceMark) + text;
  }
  if (byte_level && add_prefix_space && !text.empty() && !is_space_at(text, 0)) text = " " + text;
  std::vector<std::string_view> pieces = {text};
  for (const SplitStep& step : splits) pieces = split(step, pieces);
  for (const std::string_view piece : pieces) {
    if (!metaspace || !metaspace->split) {
      encode_piece(piece, out);
      continue;
    }
    size_t begin = 0;  // a new word begins at every mark
    for (size_t next = piece.find(kSpaceMark, 1); next != std::string_view::npos; next = piece.find(kSpaceMark, begin + 1)) {
      encode_piece(piece.substr(begin, next - begin), out);
      begin = next;
    }
    encode_piece(piece.substr(begin), out);
  }
}

void TokenizerImpl::append_unknown(std::string_view symbol, std::vector<TokenId>& out) const {
  if (byte_fallback) {
    const bool all = std::all_of(symbol.begin(), symbol.end(), [&](char c) { return byte_tokens_[static_cast<uint8_t>(c)] >= 0; });
    if (all) {
      for (const char c : symbol) out.push_back(byte_tokens_[static_cast<uint8_t>(c)]);
      return;
    }
  }
  if (unknown < 0 || (fuse_unknown && !out.empty() && out.back() == unknown)) return;
  out.push_back(unknown);
}

void TokenizerImpl::encode_piece(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.empty()) return;
  std::string spelled;
  if (byte_level) {
    for (const char c : piece) spelled += byte_characters()[static_cast<uint8_t>(c)];
  } else {
    spelled = piece;
  }
  if (ignore_merges) {
    if (const auto whole = ids.find(spelled); whole != ids.end()) {
      out.push_back(whole->second);
      return;
    }
  }
  std::vector<TokenId> symbols;
  std::vector<std::string_view> strange;  // characters outside the vocabulary: id -1 - index
  for (size_t at = 0; at < spelled.size();) {
    const size_t length = utf8_length(spelled, at);
    const auto found = ids.find(spelled.substr(at, length));
    if (found != ids.end()) {
      symbols.push_back(found->second);
    } else {
      strange.push_back(std::string_view(spelled).substr(at, length));
      symbols.push_back(-static_cast<TokenId>(strange.size()));
    }
    at += length;
  }
  merge_symbols(merges, symbols);
  for (const TokenId symbol : symbols) {
    if (symbol >= 0) out.push_back(symbol);
    else append_unknown(strange[static_cast<size_t>(-symbol - 1)], out);
  }
}

std::string TokenizerImpl::bytes_of(TokenId id) const {
  if (id < 0 || static_cast<size_t>(id) >= tokens.size()) return {};
  const std::string& token = tokens[static_cast<size_t>(id)];
  if (added.by_id(id)) return token;
  if (byte_level) return bytes_of_characters(token);
  if (byte_fallback && token.size() == 6 && token.starts_with("<0x") && token.back() == '>')
    return std::string(1, static_cast<char>(std::strtol(token.substr(3, 2).c_str(), nullptr, 16)));
  std::string out = token;
  replace_all(out, kSpaceMark, " ");
  return out;
}

}  // namespace tq
