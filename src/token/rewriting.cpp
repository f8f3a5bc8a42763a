#include "token/rewriting.h"

#include "base/utf8.h"
#include "token/utf8.h"

namespace tq {

void Rewriting::keep(std::string_view source, size_t begin, size_t end) {
  text.append(source, begin, end - begin);
  if (is_traced_)
    for (size_t at = begin; at < end; ++at) origins_.push_back({at, at + 1});
}

void Rewriting::insert_front(std::string_view made) {
  const size_t at = origins_.empty() ? 0 : origins_.front().begin;
  text.insert(0, made);
  if (is_traced_) origins_.insert(origins_.begin(), made.size(), {at, at});
}

void Rewriting::resize(size_t size) {
  text.resize(size);
  if (is_traced_) origins_.resize(size);
}

void Rewriting::shift(size_t by) {
  for (Origin& one : origins_) one = {one.begin + by, one.end + by};
}

void Rewriting::follow(const Rewriting& earlier) {
  const std::vector<Origin>& from = earlier.origins_;
  const auto place = [&](size_t at) { return at < from.size() ? from[at].begin : from.empty() ? 0 : from.back().end; };
  for (Origin& one : origins_) {
    const size_t begin = place(one.begin);
    one = {begin, one.end > one.begin ? from[one.end - 1].end : begin};
  }
}

void repair(std::string_view text, Rewriting& out) {
  out.text.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Character one = utf8_character(text, at);
    if (one.valid) out.keep(text, at, at + one.length);
    else out.put(kReplacement, at, at + one.length);
    at += one.length;
  }
}

}  // namespace tq
