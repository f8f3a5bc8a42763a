// What the processor could do at most, from registers.
#pragma once

#include <cstdint>

#include "base/cpu.h"

// Performs some products without touching memory and returns their number. Float: multiply-adds; else of integers as the tiles take them
// (AVX2: 16 bits, AVX-512: 8 bits).
int64_t spend_products(tq::Isa isa, bool is_float);
