// Keep masks, and dropout that applies them on the fly: y[t, b, e, i] = keep(t, b, e) ? a x[s, b, e, i] + b : d.
//
// Reads x once (s = 1: once for all passes) and writes y once; the random bits live in a 4 kB buffer that stays in L1.
// Work goes item by item, a chunk of elements at a time, all passes of the chunk in turn, so that the chunk of x stays
// in L1 as well. What a bit is: philox.h and mcscore/masks.py.
#pragma once

#include "philox.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int64_t kBuffer = 4096;  // bytes of random bits at a time

// Lanes of ones where elements e..e+W of a run of draws are kept; e is a multiple of W.
template <int BITS> MC_INLINE i32v keep_lanes(const uint8_t* draws, int64_t e, int32_t threshold) {
    if constexpr (BITS == 1) {
        uint32_t word = 0;
        __builtin_memcpy(&word, draws + e / 8, W > 8 ? 2 : 1);
        if constexpr (W == 4) word >>= e & 4;
        const i32v select = 1 << lane_numbers();
        return (all((int32_t)word) & select) == select;
    } else if constexpr (BITS == 8) {
        return __builtin_convertvector(load<u8w>(draws + e), i32v) >= threshold;
    } else {
        return __builtin_convertvector(load<u16w>(draws + 2 * e), i32v) >= threshold;
    }
}

template <int BITS> MC_INLINE bool keep_one(const uint8_t* draws, int64_t e, uint32_t threshold) {
    if constexpr (BITS == 1) return draws[e / 8] >> (e % 8) & 1;
    else if constexpr (BITS == 8) return draws[e] >= threshold;
    else return (uint32_t)(draws[2 * e] | draws[2 * e + 1] << 8) >= threshold;
}

// Calls use(t, e0, n, draws) for every pass and chunk of elements of item b.
template <int BITS, class Use> MC_INLINE void for_chunks(const Masks& m, int64_t b, Part part, Use&& use) {
    constexpr int64_t per_block = 128 / BITS;
    alignas(64) uint8_t draws[kBuffer + 32 * kLanes];
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

template <int BITS> static void keep_mask_of(const Masks& m, bool* keep_tBE, Part part) {
    for (int64_t b = part.b0; b < part.b1; b++)
        for_chunks<BITS>(m, b, part, [&](int64_t t, int64_t e0, int64_t n, const uint8_t* draws) {
            uint8_t* const out = (uint8_t*)keep_tBE + (t * m.B + b) * m.E + e0;
            int64_t e = 0;
            for (; e + W <= n; e += W)
                store(out + e, __builtin_convertvector(keep_lanes<BITS>(draws, e, (int32_t)m.threshold) & 1, u8w));
            for (; e < n; e++) out[e] = keep_one<BITS>(draws, e, m.threshold);
        });
}

static void keep_mask(const Masks& m, bool* keep_tBE, Part part) {
    if (m.random_bits == 1) keep_mask_of<1>(m, keep_tBE, part);
    else if (m.random_bits == 8) keep_mask_of<8>(m, keep_tBE, part);
    else keep_mask_of<16>(m, keep_tBE, part);
}

// y = keep ? a x + b : d for n values with one draw each.
template <Type X, int BITS>
MC_INLINE void apply(const Dropout& f, const typename Element<X>::type* x, const uint8_t* draws, int32_t threshold, int64_t n,
                     typename Element<X>::type* y) {
    const f32v dropped = all(f.d);
    int64_t e = 0;
    for (; e + W <= n; e += W) {
        const f32v kept = load_as_float<X>(x + e) * f.a + f.b;
        store_from_float<X>(y + e, keep_lanes<BITS>(draws, e, threshold) ? kept : dropped);
    }
    if (e < n) {
        const f32v kept = load_first<X>(x + e, (int)(n - e)) * f.a + f.b;
        store_first<X>(y + e, (int)(n - e), keep_lanes<BITS>(draws, e, threshold) ? kept : dropped);
    }
}

// n values that share one draw.
template <Type X>
MC_INLINE void apply_shared(const Dropout& f, const typename Element<X>::type* x, bool keep, int64_t n, typename Element<X>::type* y) {
    const f32v a = all(keep ? f.a : 0.0f), b = all(keep ? f.b : f.d);
    int64_t i = 0;
    if (!keep) {
        for (; i + W <= n; i += W) store_from_float<X>(y + i, b);
        if (i < n) store_first<X>(y + i, (int)(n - i), b);
        return;
    }
    for (; i + W <= n; i += W) store_from_float<X>(y + i, load_as_float<X>(x + i) * a + b);
    if (i < n) store_first<X>(y + i, (int)(n - i), load_first<X>(x + i, (int)(n - i)) * a + b);
}

template <Type X, int BITS> static void dropout_of(const Masks& m, const Dropout& f, Part part) {
    typedef typename Element<X>::type E;
    constexpr int64_t kSpread = 64;  // up to this many values per element, draws are first spread out to one byte per value
    for (int64_t b = part.b0; b < part.b1; b++)
        for_chunks<BITS>(m, b, part, [&](int64_t t, int64_t e0, int64_t n, const uint8_t* draws) {
            const E* x = (const E*)f.x_sBEI + (((f.s == 1 ? 0 : t) * m.B + b) * m.E + e0) * f.I;
            E* y = (E*)f.y_tBEI + ((t * m.B + b) * m.E + e0) * f.I;
            if (f.I == 1) {
                apply<X, BITS>(f, x, draws, (int32_t)m.threshold, n, y);
            } else if (f.I > kSpread) {
                for (int64_t e = 0; e < n; e++, x += f.I, y += f.I) apply_shared<X>(f, x, keep_one<BITS>(draws, e, m.threshold), f.I, y);
            } else {
                constexpr int64_t some = 16;  // elements at a time
                uint8_t spread[some * kSpread + W];
                for (int64_t e = 0; e < n; e += some, x += some * f.I, y += some * f.I) {
                    const int64_t here = n - e < some ? n - e : some;
                    for (int64_t i = 0; i < here; i++)
                        __builtin_memset(spread + i * f.I, keep_one<BITS>(draws, e + i, m.threshold), (size_t)f.I);
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
