// exp and log of float32 vectors.
#pragma once

#include "simd.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr float kExpFloor = -86.0f;  // exp(z) is 0 below: 4.5e-38 is the last result that keeps all its bits

// exp(z) for z <= 0, within 1 ulp (measured over [-86, 0]: 0.87); exactly 0 for z < -86 and z = -inf; NaN for NaN.
// z is raised to -86 on the way, so that a caller can form exp(z) * z without 0 * -inf.
//
// exp(z) = 2^n exp(r) with n = round(z / ln 2), |r| <= ln(2) / 2; exp(r) is the polynomial of degree 6 with the smallest
// greatest relative error (3e-9), its first two coefficients held at 1. Adding 1.5 * 2^23 rounds z / ln 2 and leaves n in
// the low bits of the sum, ready to be shifted into the exponent: no conversion needed.
MC_INLINE f32v exp_nonpositive(f32v& z) {
    const auto zero = z < kExpFloor;
    z = max(all(kExpFloor), z);  // NaN stays: max returns its second argument
    const f32v shifted = z * 1.44269504088896341f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    f32v r = z - n * kLn2High;
    r = r - n * kLn2Low;
    f32v y = 1.3814539e-3f * r + 8.3687454e-3f;
    y = y * r + 4.1668389e-2f;
    y = y * r + 1.6666521e-1f;
    y = y * r + 4.9999994e-1f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    y = bits<f32v>(bits<i32v>(y) + (bits<i32v>(shifted) << 23));
    return zero ? f32v{} : y;
}

// log(x) = k log 2 + log(m) for normal positive x, m in [sqrt(1/2), sqrt(2)): k exact, log(m) within 1 ulp. Cephes' logf.
struct Log {
    f32v k, log_m;
};
MC_INLINE Log log_parts(f32v x) {
    const i32v b = bits<i32v>(x), e = (b - 0x3f3504f3) >> 23;
    const f32v f = bits<f32v>(b - (e << 23)) - 1.0f, f2 = f * f;
    f32v y = 7.0376836292e-2f * f - 1.1514610310e-1f;
    y = y * f + 1.1676998740e-1f;
    y = y * f - 1.2420140846e-1f;
    y = y * f + 1.4249322787e-1f;
    y = y * f - 1.6668057665e-1f;
    y = y * f + 2.0000714765e-1f;
    y = y * f - 2.4999993993e-1f;
    y = y * f + 3.3333331174e-1f;
    return {__builtin_convertvector(e, f32v), f + (y * f - 0.5f) * f2};
}

// log(x) for normal positive x, within 2 ulp (1 ulp outside [0.7, 1.5]).
MC_INLINE f32v log_positive(f32v x) {
    const Log l = log_parts(x);
    return l.k * kLn2High + (l.k * kLn2Low + l.log_m);
}

// x log x, 0 for x = 0.
MC_INLINE f32v x_log_x(f32v x) { return x * log_positive(max(all(1e-37f), x)); }

}  // namespace MCSCORE_ISA
}  // namespace mcscore
