// Random numbers, one Philox word each: uniform on [0, 1) or standard normal, as mcscore/masks.py defines them.
//
// Writes each number once. The Philox words are in the buffer of for_chunks, which stays in L1.
#pragma once

#include "dropout.h"
#include "exp.h"

namespace mcscore {
namespace MCSCORE_ISA {

template <Type X> constexpr int kUniformBits = X == Type::f32 ? 24 : X == Type::f16 ? 11 : 8;  // random bits of a number below 1 that X holds exactly

template <Type X> MC_INLINE f32v uniform_from(const uint8_t* words) {
    constexpr int n = kUniformBits<X>;
    return __builtin_convertvector((i32v)(load<u32v>(words) >> (32 - n)), f32v) * (1.0f / (1 << n));
}

template <Type X> MC_INLINE void uniforms(const uint8_t* words, int64_t n, typename Element<X>::type* y) {
    int64_t e = 0;
    for (; e + W <= n; e += W) store_from_float<X>(y + e, uniform_from<X>(words + 4 * e));
    if (e < n) store_first<X>(y + e, (int)(n - e), uniform_from<X>(words + 4 * e));
}

// sin and cos of |x| <= pi / 4, within 1 ulp, by Cephes' sinf and cosf.
MC_INLINE f32v sine(f32v x, f32v x2) {
    const f32v y = (-1.9515295891e-4f * x2 + 8.3321608736e-3f) * x2 - 1.6666654611e-1f;
    return y * x2 * x + x;
}
MC_INLINE f32v cosine(f32v x2) {
    const f32v y = (2.443315711809948e-5f * x2 - 1.388731625493765e-3f) * x2 + 4.166664568298827e-2f;
    return y * x2 * x2 + (1.0f - 0.5f * x2);
}

struct Pair {
    f32v first, second;
};

// W pairs of normal numbers from the words w0, w1.
MC_INLINE Pair box_muller(u32v w0, u32v w1) {
    // 65536 high is exact, so the sum is w0 + 1 rounded once, also for vectors that have no conversion from unsigned.
    const f32v high = __builtin_convertvector((i32v)(w0 >> 16), f32v), low = __builtin_convertvector((i32v)(w0 & 0xffffu), f32v) + 1.0f;
    const f32v radius = square_root(log_positive(multiply_add(high, all(65536.0f), low) * 0x1p-32f) * -2.0f);
    const u32v quarter = (w1 + 0x20000000u) >> 30;  // mod 4
    const f32v rest = __builtin_convertvector((i32v)(w1 - (quarter << 30)), f32v) * 1.46291807926715968e-9f;  // 2 pi / 2^32
    const f32v x2 = rest * rest, sin = sine(rest, x2), cos = cosine(x2);
    const i32v odd = (i32v)(quarter << 31) < 0;
    const u32v back = quarter >> 1 << 31;
    const f32v first = odd ? sin : cos, second = odd ? cos : sin;
    return {radius * bits<f32v>(bits<u32v>(first) ^ back ^ (quarter << 31)), radius * bits<f32v>(bits<u32v>(second) ^ back)};
}

// The numbers of 2 W words, in memory order. Even lanes compute the pairs of the first W words and odd lanes those of the other
// W, so shifts alone split the words and join the numbers.
MC_INLINE Pair normal_from(const uint8_t* words) {
    const u64v a = load<u64v>(words), b = load<u64v>(words + 4 * W), low = all((uint64_t)0xffffffffu);
    const Pair n = box_muller(bits<u32v>((a & low) | (b << 32)), bits<u32v>((a >> 32) | (b & ~low)));
    const u64v first = bits<u64v>(n.first), second = bits<u64v>(n.second);
    return {bits<f32v>((first & low) | (second << 32)), bits<f32v>((first >> 32) | (second & ~low))};
}

template <Type X> MC_INLINE void normals(const uint8_t* words, int64_t n, typename Element<X>::type* y) {
    int64_t e = 0;
    for (; e + 2 * W <= n; e += 2 * W) {
        const Pair p = normal_from(words + 4 * e);
        store_from_float<X>(y + e, p.first);
        store_from_float<X>(y + e + W, p.second);
    }
    if (e == n) return;
    const Pair p = normal_from(words + 4 * e);
    if (n - e < W) {
        store_first<X>(y + e, (int)(n - e), p.first);
    } else {
        store_from_float<X>(y + e, p.first);
        store_first<X>(y + e + W, (int)(n - e - W), p.second);
    }
}

template <Type X> static void draw_of(const Masks& m, const Draw& f, Part part) {
    for (int64_t b = part.b0; b < part.b1; b++)
        for_chunks<32>(m, b, part, [&](int64_t t, int64_t e0, int64_t n, const uint8_t* words) {
            auto* y = (typename Element<X>::type*)f.out_tBE + (t * m.B + b) * m.E + e0;
            if (f.normal) normals<X>(words, n, y);
            else uniforms<X>(words, n, y);
        });
}

static void draw(const Masks& m, const Draw& f, Part part) {
    if (f.type == Type::f32) draw_of<Type::f32>(m, f, part);
    else if (f.type == Type::f16) draw_of<Type::f16>(m, f, part);
    else draw_of<Type::bf16>(m, f, part);
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
