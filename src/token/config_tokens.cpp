#include "token/config_tokens.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>
#include <unordered_set>

#include "token/utf8.h"

namespace tq {
namespace {

constexpr size_t kMostUnused = 4096;  // ids that no token has

// Text or object; a token without text is none.
Status add_named(const Json& value, const std::string& where, std::vector<AddedToken>& out) {
  AddedToken token;
  if (value.is_string()) {
    token.content = value.get<std::string>();
  } else if (value.is_object()) {
    TQ_ASSIGN(token, read_added_token(JsonReader(value, where)));
  }
  if (token.content.empty()) return {};
  token.special = true;
  token.normalized = false;
  out.push_back(std::move(token));
  return {};
}

Result<std::vector<AddedToken>> named_tokens(const Json& config, const std::string& where) {
  const JsonReader reader(config, where);
  std::vector<AddedToken> out;
  for (const char* key : kNamedTokens)
    if (const Json* value = reader.find(key)) TQ_TRY(add_named(*value, fmt::format("{} {}", where, key), out));
  if (const Json* more = reader.find("additional_special_tokens"); more && more->is_array())
    for (const Json& value : *more) TQ_TRY(add_named(value, where + " additional_special_tokens", out));
  return out;
}

// By rising id. What says nothing but the text that the id's piece has anyway is left out: it is no reason to think a control piece none.
Result<std::vector<AddedToken>> listed_tokens(const Json& config, const std::vector<std::string>& pieces, const std::string& where) {
  std::vector<AddedToken> out;
  const Json* listed = JsonReader(config, where).find("added_tokens_decoder");
  if (!listed) return out;
  if (!listed->is_object()) return bad_input("{}: added_tokens_decoder should be an object", where);
  for (const auto& [key, value] : listed->items()) {
    TokenId id = -1;
    const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
    if (read.ec != std::errc() || read.ptr != key.data() + key.size() || id < 0)
      return bad_input("{}: added_tokens_decoder has '{}' for an id", where, utf8_front(key));
    TQ_ASSIGN(AddedToken token, read_added_token(JsonReader(value, fmt::format("{} added_tokens_decoder {}", where, id))));
    const auto at = static_cast<size_t>(id);
    if (!value.contains("special") && at < pieces.size() && pieces[at] == token.content) continue;
    token.id = id;
    token.normalized = false;
    out.push_back(std::move(token));
  }
  std::stable_sort(out.begin(), out.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return out;
}

}  // namespace

std::string token_name(const Json& config, const char* key) {
  const auto found = config.is_object() ? config.find(key) : config.end();
  if (!config.is_object() || found == config.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) return (*found)["content"].get<std::string>();
  return {};
}

Result<AddedToken> read_added_token(const JsonReader& reader) {
  AddedToken out;
  TQ_ASSIGN(out.content, reader.string("content"));
  TQ_ASSIGN(out.special, reader.boolean_or("special", false));
  TQ_ASSIGN(out.strip_left, reader.boolean_or("lstrip", false));
  TQ_ASSIGN(out.strip_right, reader.boolean_or("rstrip", false));
  TQ_ASSIGN(out.single_word, reader.boolean_or("single_word", false));
  TQ_ASSIGN(out.normalized, reader.boolean_or("normalized", !out.special));
  return out;
}

Result<std::vector<AddedToken>> config_tokens(const Json& config, const std::vector<std::string>& pieces, const std::string& where) {
  TQ_ASSIGN(std::vector<AddedToken> out, listed_tokens(config, pieces, where));
  TQ_ASSIGN(const std::vector<AddedToken> named, named_tokens(config, where));
  std::unordered_map<std::string, TokenId> ids;
  for (size_t i = 0; i < pieces.size(); ++i) ids.emplace(pieces[i], static_cast<TokenId>(i));
  std::unordered_set<std::string> control, listed;
  for (const AddedToken& token : named) control.insert(token.content);
  auto next = static_cast<TokenId>(pieces.size());
  for (size_t i = 0; i < out.size(); ++i) {
    AddedToken& token = out[i];
    if (i > 0 && token.id == out[i - 1].id)
      return bad_input("{}: '{}' and '{}' have the same id {}", where, utf8_front(out[i - 1].content), utf8_front(token.content), token.id);
    if (static_cast<size_t>(token.id) >= pieces.size() + out.size() + kMostUnused)
      return bad_input("{}: the added token '{}' has the id {}, far beyond the {} tokens before it", where, utf8_front(token.content),
                       token.id, next);
    const TokenId known = token.content.empty() ? token.id : ids.emplace(token.content, token.id).first->second;
    if (known != token.id)
      return bad_input("{}: the added token '{}' has the ids {} and {}", where, utf8_front(token.content), known, token.id);
    next = std::max(next, token.id + 1);
    token.special |= control.contains(token.content);
    listed.insert(token.content);
  }
  for (const AddedToken& token : named) {
    if (!listed.insert(token.content).second) continue;
    const auto [known, is_new] = ids.emplace(token.content, next);
    if (is_new) ++next;
    out.push_back(token);
    out.back().id = known->second;
  }
  return out;
}

}  // namespace tq
