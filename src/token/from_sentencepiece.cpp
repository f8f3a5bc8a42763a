// tokenizer.model: SentencePiece's protocol buffer (sentencepiece_model.proto), as far as encoding needs it.
#include <algorithm>
#include <cstring>

#include "token/config_tokens.h"
#include "token/tokenizer_impl.h"

namespace tq {
namespace {

// Walks the fields of one message.
class Message {
 public:
  explicit Message(std::string_view bytes) : bytes_(bytes) {}

  struct Field {
    uint64_t number = 0;
    uint64_t value = 0;      // varint and fixed fields
    std::string_view bytes;  // length-delimited fields
  };
  bool at_end() const { return at_ >= bytes_.size(); }
  // False: broken bytes.
  bool next(Field& field) {
    uint64_t key = 0;
    if (!varint(key)) return false;
    field = {key >> 3, 0, {}};
    switch (key & 7) {
      case 0: return varint(field.value);
      case 1: return fixed(field.value, 8);
      case 5: return fixed(field.value, 4);
      case 2: {
        uint64_t length = 0;
        if (!varint(length) || length > bytes_.size() - at_) return false;
        field.bytes = bytes_.substr(at_, length);
        at_ += length;
        return true;
      }
      default: return false;
    }
  }

 private:
  bool varint(uint64_t& out) {
    out = 0;
    for (int shift = 0; shift < 64 && at_ < bytes_.size(); shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      out |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return true;
    }
    return false;
  }
  bool fixed(uint64_t& out, size_t size) {
    out = 0;
    if (size > bytes_.size() - at_) return false;
    std::memcpy(&out, bytes_.data() + at_, size);
    at_ += size;
    return true;
  }
  std::string_view bytes_;
  size_t at_ = 0;
};

TokenKind kind_of(uint64_t type) {
  constexpr TokenKind kKinds[] = {TokenKind::kNormal,      TokenKind::kNormal, TokenKind::kUnknown, TokenKind::kControl,
                                  TokenKind::kUserDefined, TokenKind::kUnused, TokenKind::kByte};
  return type < std::size(kKinds) ? kKinds[type] : TokenKind::kNormal;
}

bool read_piece(std::string_view bytes, VocabularySpec& spec) {
  Message message(bytes);
  std::string text;
  float score = 0;
  uint64_t type = 1;
  for (Message::Field field; !message.at_end();) {
    if (!message.next(field)) return false;
    if (field.number == 1) text = field.bytes;
    if (field.number == 2) {
      const auto bits = static_cast<uint32_t>(field.value);
      std::memcpy(&score, &bits, sizeof score);
    }
    if (field.number == 3) type = field.value;
  }
  spec.tokens.push_back(std::move(text));
  spec.scores.push_back(score);
  spec.kinds.push_back(kind_of(type));
  return true;
}

struct Trainer {
  uint64_t model_type = 1;  // 1 unigram, 2 BPE
  bool space_is_suffix = false;
};

bool read_trainer(std::string_view bytes, VocabularySpec& spec, Trainer& trainer) {
  Message message(bytes);
  for (Message::Field field; !message.at_end();) {
    if (!message.next(field)) return false;
    const auto id = static_cast<TokenId>(static_cast<int32_t>(field.value));
    if (field.number == 3) trainer.model_type = field.value;
    if (field.number == 24) trainer.space_is_suffix = field.value != 0;
    if (field.number == 40) spec.unknown = id;
    if (field.number == 41) spec.bos = id;
    if (field.number == 42) spec.eos = id;
    if (field.number == 43) spec.pad = id;
  }
  return true;
}

bool read_normalizer_spec(std::string_view bytes, VocabularySpec& spec) {
  Message message(bytes);
  for (Message::Field field; !message.at_end();) {
    if (!message.next(field)) return false;
    if (field.number == 2) spec.charsmap = field.bytes;
    if (field.number == 3) spec.add_space_prefix = field.value != 0;
    if (field.number == 4) spec.remove_extra_whitespaces = field.value != 0;
  }
  return true;
}

}  // namespace

Result<Tokenizer> Tokenizer::from_sentencepiece(std::span<const std::byte> bytes, const Json& config, const std::string& where) {
  VocabularySpec spec;
  spec.model = VocabularySpec::Model::kSpm;
  spec.unknown = 0, spec.bos = 1, spec.eos = 2;
  spec.add_space_prefix = spec.remove_extra_whitespaces = spec.fuse_unknown = true;
  Trainer trainer;
  Message message({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  for (Message::Field field; !message.at_end();) {
    bool is_sound = message.next(field);
    if (is_sound && field.number == 1) is_sound = read_piece(field.bytes, spec);
    if (is_sound && field.number == 2) is_sound = read_trainer(field.bytes, spec, trainer);
    if (is_sound && field.number == 3) is_sound = read_normalizer_spec(field.bytes, spec);
    if (!is_sound) return bad_input("{}: not a SentencePiece model, or damaged", where);
  }
  if (trainer.model_type != 1 && trainer.model_type != 2)
    return bad_input("{}: a SentencePiece model of characters or words is not supported (unigram and BPE are)", where);
  if (trainer.space_is_suffix) return bad_input("{}: a SentencePiece model with spaces at the ends of words is not supported", where);
  if (trainer.model_type == 1) spec.model = VocabularySpec::Model::kUnigram;
  const JsonReader reader(config, where);
  TQ_ASSIGN(spec.add_bos, reader.boolean_or("add_bos_token", true));
  TQ_ASSIGN(spec.add_eos, reader.boolean_or("add_eos_token", false));
  TQ_ASSIGN(const std::vector<AddedToken> added, config_tokens(config, spec.tokens, where + ", tokens that the files beside it add"));
  const auto named = [&](const char* key, TokenId otherwise) {
    const std::string name = token_name(config, key);
    const auto found = std::find_if(added.begin(), added.end(), [&](const AddedToken& token) { return token.content == name; });
    return name.empty() || found == added.end() ? otherwise : found->id;
  };
  spec.bos = named("bos_token", spec.bos), spec.eos = named("eos_token", spec.eos), spec.pad = named("pad_token", spec.pad);
  TQ_ASSIGN(auto impl, vocabulary_impl(std::move(spec), added, where));
  return Tokenizer(std::move(impl));
}

}  // namespace tq
