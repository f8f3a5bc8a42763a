// The eight tiles of AMX, each of 16 rows of 64 bytes. Include in files compiled for them only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tq::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Around the products of a thread, on which nothing else may find tiles configured. Not the intrinsic: g++ 12's says that it reads 8 bytes.
inline void begin_tiles() {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.rows[tile] = 16;
  asm volatile("ldtilecfg %0" ::"m"(config));
}

inline void end_tiles() { _tile_release(); }

}  // namespace
}  // namespace tq::cpu
