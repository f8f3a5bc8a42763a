#include "base/gzip.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace tq {
namespace {

constexpr int kLongestCode = 15;

// Bits of a byte stream, the lowest first. Past the end come zeros, and `overrun` says so.
class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  uint32_t bits(int count) {
    while (filled_ < count) {
      if (at_ < bytes_.size()) pending_ |= static_cast<uint32_t>(bytes_[at_]) << filled_;
      else overrun_ = true;
      ++at_, filled_ += 8;
    }
    const uint32_t value = pending_ & ((1u << count) - 1);
    pending_ >>= count, filled_ -= count;
    return value;
  }
  void to_byte() { pending_ = 0, filled_ = 0; }
  size_t position() const { return at_; }
  bool overrun() const { return overrun_; }

 private:
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  uint32_t pending_ = 0;
  int filled_ = 0;
  bool overrun_ = false;
};

// A canonical Huffman code: symbols sorted by length, then by number (RFC 1951, 3.2.2).
class Huffman {
 public:
  explicit Huffman(std::span<const uint8_t> lengths) : symbols_(lengths.size()) {
    for (const uint8_t length : lengths) ++counts_[length];
    counts_[0] = 0;
    std::array<int, kLongestCode + 2> begin{};
    for (size_t length = 1; length <= kLongestCode; ++length) begin[length + 1] = begin[length] + counts_[length];
    for (size_t symbol = 0; symbol < lengths.size(); ++symbol)
      if (lengths[symbol] > 0) symbols_[static_cast<size_t>(begin[lengths[symbol]]++)] = static_cast<int>(symbol);
  }
  int read(BitReader& reader) const {  // -1: no such code
    int code = 0, first = 0, index = 0;
    for (size_t length = 1; length <= kLongestCode; ++length) {
      code |= static_cast<int>(reader.bits(1));
      if (code - first < counts_[length]) return symbols_[static_cast<size_t>(index + code - first)];
      index += counts_[length];
      first = (first + counts_[length]) << 1;
      code <<= 1;
    }
    return -1;
  }

 private:
  std::array<int, kLongestCode + 1> counts_{};
  std::vector<int> symbols_;
};

constexpr uint16_t kLengthBase[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                      31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
constexpr uint8_t kLengthBits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
constexpr uint16_t kDistanceBase[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                        193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
constexpr uint8_t kDistanceBits[30] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

class Inflater {
 public:
  Inflater(std::span<const std::byte> bytes, size_t max_bytes) : bytes_(bytes), reader_(bytes), max_bytes_(max_bytes) {}

  bool run() {
    for (bool is_last = false; !is_last;) {
      is_last = reader_.bits(1) != 0;
      const uint32_t kind = reader_.bits(2);
      if (!(kind == 0 ? stored() : kind == 1 ? fixed() : kind == 2 && dynamic())) return false;
    }
    reader_.to_byte();
    return true;
  }
  size_t position() const { return reader_.position(); }
  std::string take() { return std::move(out_); }

 private:
  bool stored() {
    reader_.to_byte();
    const uint32_t length = reader_.bits(16), inverse = reader_.bits(16);
    if ((length ^ inverse) != 0xffff || out_.size() + length > max_bytes_) return false;
    for (uint32_t i = 0; i < length && !reader_.overrun(); ++i) out_ += static_cast<char>(reader_.bits(8));
    return !reader_.overrun();
  }

  bool fixed() {
    std::array<uint8_t, 288> literals{};
    for (size_t i = 0; i < literals.size(); ++i) literals[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    std::array<uint8_t, 30> distances{};
    distances.fill(5);
    return block(Huffman(literals), Huffman(distances));
  }

  bool dynamic() {
    constexpr uint8_t kOrder[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const size_t literals = reader_.bits(5) + 257, distances = reader_.bits(5) + 1, codes = reader_.bits(4) + 4;
    if (literals > 286 || distances > 30) return false;
    std::array<uint8_t, 19> code_lengths{};
    for (size_t i = 0; i < codes; ++i) code_lengths[kOrder[i]] = static_cast<uint8_t>(reader_.bits(3));
    const Huffman code(code_lengths);
    std::vector<uint8_t> lengths;
    while (lengths.size() < literals + distances) {
      const int symbol = code.read(reader_);
      if (symbol < 0 || reader_.overrun() || (symbol == 16 && lengths.empty())) return false;
      if (symbol < 16) {
        lengths.push_back(static_cast<uint8_t>(symbol));
        continue;
      }
      const uint8_t value = symbol == 16 ? lengths.back() : uint8_t{0};
      const uint32_t count = symbol == 16 ? 3 + reader_.bits(2) : symbol == 17 ? 3 + reader_.bits(3) : 11 + reader_.bits(7);
      lengths.insert(lengths.end(), count, value);
    }
    if (lengths.size() != literals + distances) return false;
    const std::span<const uint8_t> all(lengths);
    return block(Huffman(all.first(literals)), Huffman(all.subspan(literals)));
  }

  bool block(const Huffman& literals, const Huffman& distances) {
    while (true) {
      const int symbol = literals.read(reader_);
      if (symbol < 0 || reader_.overrun()) return false;
      if (symbol == 256) return true;
      if (symbol < 256) {
        if (out_.size() >= max_bytes_) return false;
        out_ += static_cast<char>(symbol);
        continue;
      }
      if (symbol > 285) return false;
      const auto which = static_cast<size_t>(symbol - 257);
      const size_t length = kLengthBase[which] + reader_.bits(kLengthBits[which]);
      const int far = distances.read(reader_);
      if (far < 0 || far > 29) return false;
      const size_t distance = kDistanceBase[far] + reader_.bits(kDistanceBits[far]);
      if (distance > out_.size() || out_.size() + length > max_bytes_ || reader_.overrun()) return false;
      for (size_t i = 0; i < length; ++i) out_ += out_[out_.size() - distance];
    }
  }

  std::span<const std::byte> bytes_;
  BitReader reader_;
  size_t max_bytes_;
  std::string out_;
};

uint32_t crc32(std::string_view text) {
  uint32_t crc = ~uint32_t{0};
  for (const char c : text) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
  }
  return ~crc;
}

// Where the packed data begins; 0: the header is no gzip header.
size_t header_end(std::span<const std::byte> packed) {
  const auto byte = [&](size_t at) { return at < packed.size() ? static_cast<uint32_t>(packed[at]) : 0u; };
  if (packed.size() < 18 || byte(0) != 0x1f || byte(1) != 0x8b || byte(2) != 8) return 0;
  const uint32_t flags = byte(3);
  size_t at = 10;
  if (flags & 4) at += 2 + (byte(at) | byte(at + 1) << 8);
  for (const uint32_t text : {8u, 16u}) {  // name, comment: up to a zero
    if (!(flags & text)) continue;
    while (at < packed.size() && byte(at) != 0) ++at;
    ++at;
  }
  if (flags & 2) at += 2;
  return at + 8 <= packed.size() ? at : 0;
}

}  // namespace

Result<std::string> gunzip(std::span<const std::byte> packed, const std::string& where, size_t max_bytes) {
  const size_t begin = header_end(packed);
  if (begin == 0) return bad_input("{}: not a gzip file", where);
  Inflater inflater(packed.subspan(begin), max_bytes);
  const bool is_whole = inflater.run();
  const size_t end = begin + inflater.position();
  std::string out = inflater.take();
  if (!is_whole || end + 8 > packed.size())
    return bad_input("{}: damaged, incomplete or larger than {} bytes; fetch it again", where, max_bytes);
  uint32_t sums[2];  // checksum and length
  std::memcpy(sums, packed.data() + end, sizeof sums);
  if (sums[0] != crc32(out) || sums[1] != static_cast<uint32_t>(out.size()))
    return bad_input("{}: its checksum is wrong; fetch it again", where);
  return out;
}

}  // namespace tq
