// e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r as a polynomial (Cephes, expf). Unlike std::exp it is inlined, so loops
// over it vectorise.
#pragma once
#include <algorithm>
#include <cmath>
#include "isa.h"

namespace fathom {

static inline float fast_exp(float x) {  // within 2 ulp for -87 <= x <= 88; x outside is clamped, NaN stays NaN
  x = std::min(std::max(x, -87.0f), 88.0f);
  float n = std::rint(x * 1.44269504f), r = x - n * 0.693359375f - n * -2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  return (y * r * r + r + 1) * as_float(uint32_t(int(n) + 127) << 23);
}

}  // namespace fathom
