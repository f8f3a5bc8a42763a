// Ways to read planes from memory while they are multiplied; AVX-512 VNNI.
#pragma once

#include <cstdint>
#include <span>

struct StreamArgs {
  const uint8_t* bits;   // lines of 64 bytes, block after block
  int64_t lines;         // of a block
  const int8_t* values;  // [streams, 4 lines]
  const float* scale;    // [groups of 64 lines]
  float* z;              // [128 a block], added to
};

struct StreamVariant {
  const char* name;
  int blocks;   // that one call takes
  int streams;  // of activations; 0: reads only
  void (*run)(const StreamArgs& args);
};

std::span<const StreamVariant> stream_variants();
