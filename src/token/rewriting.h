// A text made from another, and what each of its bytes was made of.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tq {

// The bytes [begin, end) of a text; begin = end where something was inserted.
struct Origin {
  size_t begin, end;
};

// Whoever makes `text` appends to it and then says what it was made of.
class Rewriting {
 public:
  explicit Rewriting(bool is_traced) : is_traced_(is_traced) {}
  bool is_traced() const { return is_traced_; }

  std::string text;
  const std::vector<Origin>& origins() const { return origins_; }  // [text]; empty unless traced

  // What was appended since stands for the bytes [begin, end).
  void stands_for(size_t begin, size_t end) {
    if (is_traced_) origins_.resize(text.size(), {begin, end});
  }
  void put(std::string_view made, size_t begin, size_t end) {
    text += made;
    stands_for(begin, end);
  }
  // The bytes [begin, end) of the source as they are.
  void keep(std::string_view source, size_t begin, size_t end);
  void insert_front(std::string_view made);
  void resize(size_t size);  // smaller
  // The source was the part of another text that begins there.
  void shift(size_t by);
  // The source was itself made so: from now on origins lie in what that was made from.
  void follow(const Rewriting& earlier);

 private:
  bool is_traced_;
  std::vector<Origin> origins_;
};

// utf8_repair, traced where `out` is.
void repair(std::string_view text, Rewriting& out);

}  // namespace tq
