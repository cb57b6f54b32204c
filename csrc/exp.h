// exp and log of float32 vectors.
#pragma once

#include "simd.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// exp(z) for z <= 0, or above 0 by a rounding: within 1.5 ulp of exp(z (1 - 2.75e-9)), or of exp(z) for N = 1, as tests check
// (1.2 measured). Where exp(z) < 2^-126 the result lies in [0, 2^-126], and it is 0 for z <= -88.03, also -inf; NaN gives NaN. The
// factor comes from the rounding of log 2; as a temperature of the softmax it changes no score by 1e-7. z is raised to at least
// -127 log 2 in place, so that a caller can form exp(z) z without 0 * -inf.
//
// exp(z) = 2^e 2^(i/N) exp(r): adding 1.5 * 2^23 / N rounds z / log 2 to a multiple of 1/N and leaves N e + i in the low bits of
// the sum. i is the index of 2^(i/N) in a table, and the same bits, shifted, become the exponent; the shift also adds bits of i,
// which the entries of the table have subtracted. -127 log 2 gives e = -127, i = 0: the bits of 0. With |r| <= log 2 / (2 N),
// r + r^2 (c2 + c3 r) has a relative error of 2e-9 (N = 16, AVX-512) or 3e-8 (N = 8, AVX2). Instruction sets without such a
// table lookup use N = 1 and degree 6. On Zen 3, with two sums and a store, a vector took 5.6 cycles; with N = 1 and degree 6, 8.8.
MC_INLINE f32v exp_nonpositive(f32v& z) {
    constexpr float kFloor = -0x1.601e68p6f;  // -127 log 2
    z = max(all(kFloor), z);  // keeps NaN, as max returns its second argument
#if defined(MC_AVX512) || defined(MC_AVX2)
    constexpr int log_n = W == 16 ? 4 : 3;
    constexpr float magic = 0x1.8p23f / (1 << log_n);
    constexpr float c2 = W == 16 ? 0x1.00021ep-1f : 0x1.000876p-1f, c3 = W == 16 ? 0x1.55559ap-3f : 0x1.555656p-3f;
    const f32v shifted = z * 1.44269504088896341f + magic, n = shifted - magic;
    const i32v place = bits<i32v>(shifted);
#if defined(MC_AVX512)
    const __m512i table = _mm512_setr_epi32(0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
                                            0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d);
    const i32v entry = (i32v)_mm512_permutexvar_epi32((__m512i)place, table);
#else
    const __m256i table = _mm256_setr_epi32(0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7);
    const i32v entry = (i32v)_mm256_permutevar8x32_epi32(table, (__m256i)place);
#endif
    const f32v power = bits<f32v>(entry + (place << (23 - log_n)));
    const f32v r = multiply_add(n, all(-0.693147180559945309f), z);  // fused, so rounded once: n log 2 may be as large as 88
    const f32v q = r * ((r * c3 + c2) * r + 1.0f);
    return power * q + power;
#else
    const f32v shifted = z * 1.44269504088896341f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    f32v r = z - n * kLn2High;
    r = r - n * kLn2Low;
    f32v y = 1.3814539e-3f * r + 8.3687454e-3f;
    y = y * r + 4.1668389e-2f;
    y = y * r + 1.6666521e-1f;
    y = y * r + 4.9999994e-1f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    const f32v power = bits<f32v>((bits<i32v>(shifted) << 23) + 0x3f800000);
    return y * power;
#endif
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

// log(1 + x) for x >= -1/2, within 4 ulp for any small x: `lost`, the rounding error of y = 1 + x, is added to log y. (The exact
// term is lost / y, which differs where y is not near 1 and lost does not matter; for y >= 2 lost is no rounding error.)
MC_INLINE f32v log1p(f32v x) {
    const f32v y = 1.0f + x, lost = x - (y - 1.0f);
    const Log l = log_parts(y);
    return l.k * kLn2High + (l.k * kLn2Low + (l.log_m + (y < 2.0f ? lost : f32v{})));
}

// x log x, 0 for x = 0.
MC_INLINE f32v x_log_x(f32v x) { return x * log_positive(max(all(1e-37f), x)); }

}  // namespace MCSCORE_ISA
}  // namespace mcscore
