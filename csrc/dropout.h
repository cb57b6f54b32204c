// Keep masks, and dropout that applies them on the fly: y[t, b, e, i] = keep(t, b, e) ? a x[s, b, e, i] + b : d.
//
// Reads x once (s = 1: once for all passes) and writes y once. The random bits are in a 4 kB buffer that stays in L1.
// The loops go over items, chunks of elements, and passes, so the chunk of x stays in L1 as well. philox.h and
// mcscore/masks.py define the bits.
#pragma once

#include "philox.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int64_t kBuffer = 4096;  // bytes of random bits at a time

// Lanes of ones for kept elements among e..e + W of a run of draws. Reads at most 4 bytes beyond their draws.
template <int BITS> MC_INLINE i32v keep_lanes(const uint8_t* draws, int64_t e, int32_t threshold) {
    if constexpr (BITS == 1) {
        const i32v select = 1 << lane_numbers();
        return (all((int32_t)(load<uint32_t>(draws + e / 8) >> (e % 8))) & select) == select;
    } else if constexpr (BITS == 8) {
        return load_bytes(draws + e) >= threshold;
    } else {
        return load_words(draws + 2 * e) >= threshold;
    }
}

template <int BITS> MC_INLINE bool keep_one(const uint8_t* draws, int64_t e, uint32_t threshold) {
    if constexpr (BITS == 1) return draws[e / 8] >> (e % 8) & 1;
    else if constexpr (BITS == 8) return draws[e] >= threshold;
    else return load<uint16_t>(draws + 2 * e) >= threshold;
}

// Calls use(t, e0, n, draws) for every pass and chunk of elements of item b.
template <int BITS, class Use> MC_INLINE void for_chunks(const Masks& m, int64_t b, Part part, Use&& use) {
    constexpr int64_t per_block = 128 / BITS;
    alignas(64) uint8_t draws[kBuffer + 32 * kLanes];  // whole vectors of blocks are written
    const int64_t blocks = (m.E + per_block - 1) / per_block;
    for (int64_t first = 0; first < blocks; first += kBuffer / 16) {
        const int64_t n = blocks - first < kBuffer / 16 ? blocks - first : kBuffer / 16;
        const int64_t e0 = first * per_block, elements = m.E - e0 < n * per_block ? m.E - e0 : n * per_block;
        const int64_t rows = kBuffer / (16 * n);
        for (int64_t t = part.t0; t < part.t1; t += rows) {
            const int64_t some = part.t1 - t < rows ? part.t1 - t : rows;
            random_rows(m.seed, (uint64_t)m.ids_B[b], m.site, m.passes_t + t, some, (uint32_t)first, n, draws);
            for (int64_t r = 0; r < some; r++) use(t + r, e0, elements, (const uint8_t*)draws + 16 * n * r);
        }
    }
}

// One byte, 0 or 1, per element. For 1-bit draws, scalar work worth two multiplications makes eight bytes of eight bits; the
// compilers vectorize the comparisons of wider draws.
template <int BITS> MC_INLINE void expand(const uint8_t* __restrict draws, int64_t n, uint32_t threshold, uint8_t* __restrict out) {
    if constexpr (BITS == 1) {
        int64_t e = 0;
        for (; e + 8 <= n; e += 8) {
            const uint64_t spread = draws[e / 8] * 0x0101010101010101u & 0x8040201008040201u;
            store(out + e, (spread + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u);
        }
        for (; e < n; e++) out[e] = keep_one<1>(draws, e, threshold);
    } else if constexpr (BITS == 8) {
        for (int64_t e = 0; e < n; e++) out[e] = draws[e] >= (uint8_t)threshold;
    } else {
        const uint16_t* const words = (const uint16_t*)draws;
        for (int64_t e = 0; e < n; e++) out[e] = words[e] >= (uint16_t)threshold;
    }
}

template <int BITS> static void keep_mask_of(const Masks& m, bool* keep_tBE, Part part) {
    for (int64_t b = part.b0; b < part.b1; b++)
        for_chunks<BITS>(m, b, part, [&](int64_t t, int64_t e0, int64_t n, const uint8_t* draws) {
            expand<BITS>(draws, n, m.threshold, (uint8_t*)keep_tBE + (t * m.B + b) * m.E + e0);
        });
}

static void keep_mask(const Masks& m, bool* keep_tBE, Part part) {
    if (m.random_bits == 1) keep_mask_of<1>(m, keep_tBE, part);
    else if (m.random_bits == 8) keep_mask_of<8>(m, keep_tBE, part);
    else keep_mask_of<16>(m, keep_tBE, part);
}

// y[e] = keep(e) ? a x[e] + b : d for n values with one draw each.
template <Type X, int BITS>
MC_INLINE void apply(const Dropout& f, const typename Element<X>::type* x, const uint8_t* draws, int32_t threshold, int64_t n,
                     typename Element<X>::type* y) {
    const f32v a = all(f.a), b = all(f.b), d = all(f.d);
    const auto at = [&](int64_t e) {
        store_from_float<X>(y + e, keep_lanes<BITS>(draws, e, threshold) ? load_as_float<X>(x + e) * a + b : d);
    };
    int64_t e = 0;
    for (; e + 32 <= n; e += 32) {
#pragma GCC unroll 8
        for (int i = 0; i < 32; i += W) at(e + i);
    }
    for (; e + W <= n; e += W) at(e);
    if (e == n) return;
    if (n >= W) at(n - W);  // overlaps the vector before and writes the same values again
    else store_first<X>(y, (int)n, keep_lanes<BITS>(draws, 0, threshold) ? load_first<X>(x, (int)n) * a + b : d);
}

// y = keep ? a x + b : d for n >= W values that share one draw. A branch on the draw would be mispredicted half the time.
template <Type X>
MC_INLINE void apply_shared(const Dropout& f, const typename Element<X>::type* x, bool keep, int64_t n, typename Element<X>::type* y) {
    const f32v a = all(f.a), b = all(f.b), d = all(f.d);
    const i32v mask = all(-(int32_t)keep);
    const auto at = [&](int64_t i) { store_from_float<X>(y + i, mask ? load_as_float<X>(x + i) * a + b : d); };
    int64_t i = 0;
    for (; i + W <= n; i += W) at(i);
    if (i < n) at(n - W);
}

template <Type X, int BITS> static void dropout_of(const Masks& m, const Dropout& f, Part part) {
    typedef typename Element<X>::type E;
    for (int64_t b = part.b0; b < part.b1; b++)
        for_chunks<BITS>(m, b, part, [&](int64_t t, int64_t e0, int64_t n, const uint8_t* draws) {
            const E* x = (const E*)f.x_sBEI + (((f.s == 1 ? 0 : t) * m.B + b) * m.E + e0) * f.I;
            E* y = (E*)f.y_tBEI + ((t * m.B + b) * m.E + e0) * f.I;
            if (f.I == 1) {
                apply<X, BITS>(f, x, draws, (int32_t)m.threshold, n, y);
            } else if (f.I >= W) {
                for (int64_t e = 0; e < n; e++, x += f.I, y += f.I) apply_shared<X>(f, x, keep_one<BITS>(draws, e, m.threshold), f.I, y);
            } else {  // too short for a vector: each draw is first repeated, one byte per value
                constexpr int64_t some = 64;  // elements at a time
                uint8_t spread[some * W + W];
                for (int64_t e = 0; e < n; e += some, x += some * f.I, y += some * f.I) {
                    const int64_t here = n - e < some ? n - e : some;
                    for (int64_t i = 0, v = 0; i < here; i++) {
                        const uint8_t keep = keep_one<BITS>(draws, e + i, m.threshold);
                        for (int64_t j = 0; j < f.I; j++) spread[v++] = keep;
                    }
                    apply<X, 8>(f, x, spread, 1, here * f.I, y);
                }
            }
        });
}

template <Type X> static void dropout_bits(const Masks& m, const Dropout& f, Part part) {
    if (m.random_bits == 1) dropout_of<X, 1>(m, f, part);
    else if (m.random_bits == 8) dropout_of<X, 8>(m, f, part);
    else dropout_of<X, 16>(m, f, part);
}

static void dropout(const Masks& m, const Dropout& f, Part part) {
    if (f.type == Type::f32) dropout_bits<Type::f32>(m, f, part);
    else if (f.type == Type::f16) dropout_bits<Type::f16>(m, f, part);
    else dropout_bits<Type::bf16>(m, f, part);
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
