// Unpacks gzip files (RFC 1951 and 1952).
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace tq {

// The first member of a gzip file. Errors: kBadInput "where: …" for what is no gzip or is damaged (its checksum is compared), and for more
// than max_bytes of content.
Result<std::string> gunzip(std::span<const std::byte> packed, const std::string& where, size_t max_bytes);

}  // namespace tq
