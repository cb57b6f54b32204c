// Loading rows of logits: with lanes as items, W items at a time, or with lanes as classes, without a transpose.
//
// Rows of C <= 64 classes are transposed, so that C = 10 leaves no lane idle and sums over classes need no shuffles. Four classes
// of W items take W loads of 16 bytes and 8 shuffles within 128-bit lanes; a W x W transpose takes 24 for 8 vectors, and reads
// C = 10 as 16 classes. Layouts without contiguous classes (for C <= 64: or items) are gathered into scratch first.
#pragma once

#include "simd.h"

namespace mcscore {
namespace MCSCORE_ISA {

template <class T> MC_INLINE T least(T a, T b) { return a < b ? a : b; }
template <class T> MC_INLINE T most(T a, T b) { return a > b ? a : b; }

constexpr float kNan = __builtin_nanf(""), kInf = __builtin_inff();

typedef float f32q __attribute__((vector_size(16)));  // four classes of one item

template <Type In> MC_INLINE f32q load_four(const typename Element<In>::type* p) {
    if constexpr (W == 4) return (f32q)load_as_float<In>(p);
    if constexpr (In == Type::f32) return load<f32q>(p);
#if defined(MC_AVX512) || defined(MC_AVX2)
    if constexpr (In == Type::f16) return (f32q)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i*)p));
    if constexpr (In == Type::bf16) return (f32q)_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i*)p)), 16);
#endif
    f32q v;
    for (int i = 0; i < 4; i++) v[i] = load_one<In>(p + i);
    return v;
}

template <Type In> MC_INLINE f32q load_below_four(const typename Element<In>::type* p, int n) {  // 0 beyond p[n - 1], which is not read
#if defined(MC_AVX512) || defined(MC_AVX2)
    typedef int32_t i32q __attribute__((vector_size(16)));
    if constexpr (In == Type::f32) return (f32q)_mm_maskload_ps(p, (__m128i)(i32q{0, 1, 2, 3} < n));
#endif
    f32q v{};
    for (int i = 0; i < n; i++) v[i] = load_one<In>(p + i);
    return v;
}

// 128 bits each of items l, l + 4, l + 8 ... of the group, loaded by load_row.
template <class Load> MC_INLINE f32v side_by_side(Load&& load_row, int l) {
#if defined(MC_AVX512)
    const __m512 a = _mm512_insertf32x4(_mm512_castps128_ps512((__m128)load_row(l)), (__m128)load_row(l + 4), 1);
    return (f32v)_mm512_insertf32x4(_mm512_insertf32x4(a, (__m128)load_row(l + 8), 2), (__m128)load_row(l + 12), 3);
#elif defined(MC_AVX2)
    return (f32v)_mm256_insertf128_ps(_mm256_castps128_ps256((__m128)load_row(l)), (__m128)load_row(l + 4), 1);
#endif
    f32v v;
    for (int q = 0; q < W / 4; q++) {
        const f32q row = load_row(l + 4 * q);
        for (int i = 0; i < 4; i++) v[4 * q + i] = row[i];
    }
    return v;
}

template <int Half, int... I> MC_INLINE f32v unpack(f32v a, f32v b, Indices<I...>) {
    return MC_SHUFFLE(f32v, i32v, a, b, ((I & 1 ? W : 0) + (I & ~3) + 2 * Half + (I & 3) / 2)...);
}
template <int Half, int... I> MC_INLINE f32v halves(f32v a, f32v b, Indices<I...>) {
    return MC_SHUFFLE(f32v, i32v, a, b, ((I & 2 ? W - 2 : 0) + I + 2 * Half)...);
}

// Four vectors of side_by_side() -> four classes, with item l of the group in lane l.
MC_INLINE void transpose_fours(f32v (&r)[4]) {
    typedef typename Count<W>::type All;
    const f32v a = unpack<0>(r[0], r[1], All()), b = unpack<0>(r[2], r[3], All()), c = unpack<1>(r[0], r[1], All()),
               d = unpack<1>(r[2], r[3], All());
    r[0] = halves<0>(a, b, All()), r[1] = halves<1>(a, b, All()), r[2] = halves<0>(c, d, All()), r[3] = halves<1>(c, d, All());
}

template <int Odd, int... I> MC_INLINE f32v every_other(f32v a, f32v b, Indices<I...>) {
    return MC_SHUFFLE(f32v, i32v, a, b, (2 * I + Odd)...);
}

// Rows of C values, item l at x + stride * at(l) -> row[c][l] as float32. Returns each item's maximum over classes, ignoring NaN.
template <Type In, class At>
MC_INLINE f32v transpose_items(const typename Element<In>::type* x, int64_t stride, At&& at, int64_t C, float* row) {
    f32v r[4], m = all(-kInf);
    if (C < 4) {
        for (int l = 0; l < 4; l++) r[l] = side_by_side([&](int i) { return load_below_four<In>(x + stride * at(i), (int)C); }, l);
        transpose_fours(r);
        for (int c = 0; c < C; c++) store(row + c * W, r[c]), m = max(r[c], m);
        return m;
    }
    for (int64_t c = 0; c < C; c += 4) {
        const int64_t begin = least(c, C - 4);  // the last block overlaps the previous one
        for (int l = 0; l < 4; l++) r[l] = side_by_side([&](int i) { return load_four<In>(x + begin + stride * at(i)); }, l);
        transpose_fours(r);
        float* const to = row + begin * W;
        for (int i = 0; i < 4; i++) store(to + i * W, r[i]);
        m = max(max(max(r[0], r[1]), max(r[2], r[3])), m);
    }
    return m;
}

// The same for n <= W items. One or two classes of adjacent items are loaded without a transpose.
template <Type In> MC_INLINE f32v load_items(const typename Element<In>::type* x, int64_t stride, int64_t n, int64_t C, float* row) {
    if (n < W) return transpose_items<In>(x, stride, [&](int l) { return least<int64_t>(l, n - 1); }, C, row);
    if (C == 1 && stride == 1) {
        const f32v v = load_as_float<In>(x);
        store(row, v);
        return v;
    }
    if (C == 2 && stride == 2) {
        const f32v a = load_as_float<In>(x), b = load_as_float<In>(x + W);
        const f32v first = every_other<0>(a, b, typename Count<W>::type()), second = every_other<1>(a, b, typename Count<W>::type());
        store(row, first), store(row + W, second);
        return max(first, max(second, all(-kInf)));
    }
    return transpose_items<In>(x, stride, [](int l) { return (int64_t)l; }, C, row);
}

// The same for contiguous items: x[c * stride + lane], n <= W items.
template <Type In> MC_INLINE f32v load_class_major(const typename Element<In>::type* x, int64_t stride, int64_t n, int64_t C, float* row) {
    f32v m = all(-kInf);
    for (int64_t c = 0; c < C; c++) {
        const f32v v = n == W ? load_as_float<In>(x + c * stride) : load_first<In>(x + c * stride, (int)n);
        store(row + c * W, v);
        m = max(v, m);
    }
    return m;
}

// ---- lanes are classes: C > W contiguous values; the last vector overlaps the previous one -------------------------------------

template <Type In> MC_INLINE f32v max_of_row(const typename Element<In>::type* x, int64_t C) {  // in every lane
    f32v m0 = max(load_as_float<In>(x + C - W), all(-kInf)), m1 = m0, m2 = m0, m3 = m0;  // for NaN max returns its second argument
    int64_t i = 0;
    for (; i + 4 * W <= C; i += 4 * W) {
        m0 = max(load_as_float<In>(x + i), m0), m1 = max(load_as_float<In>(x + i + W), m1);
        m2 = max(load_as_float<In>(x + i + 2 * W), m2), m3 = max(load_as_float<In>(x + i + 3 * W), m3);
    }
    for (; i + W <= C; i += W) m0 = max(load_as_float<In>(x + i), m0);
    return max_lanes(max(max(m0, m1), max(m2, m3)));
}

// Position of the first of C values that equals m (C if none does).
template <Type In> MC_INLINE int64_t first_equal(const typename Element<In>::type* x, int64_t C, f32v m) {
    i32v found = all((int32_t)C);
    const auto look = [&](int64_t i) { found = load_as_float<In>(x + i) == m ? lane_numbers() + (int32_t)i : found; };
    look(C - W);
    for (int64_t i = (C / W - 1) * W; i >= 0; i -= W) look(i);
    int32_t first = found[0];
    for (int l = 1; l < W; l++) first = least(first, found[l]);
    return first;
}

// ---- classes that are not contiguous -----------------------------------------------------------------------------------------------

// out[t][l][c] = x[t][b + l][c] as float32 for t0 <= t < t1, l < n. (B, C, T) comes in W x W tiles, anything else value by value.
template <Type In> static MC_NOINLINE void gather(const Logits& x, int64_t b, int64_t n, int64_t t0, int64_t t1, float* out) {
    const auto* const data = (const typename Element<In>::type*)x.data + b * x.stride_b + t0 * x.stride_t;
    const int64_t T = t1 - t0, C = x.C, pass = n * C;
    if (x.stride_t == 1 && T >= W && C >= W) {
        for (int64_t l = 0; l < n; l++)
            for (int64_t c0 = 0; c0 < C; c0 += W)
                for (int64_t t = 0; t < T; t += W) {
                    const int64_t c = least(c0, C - W), at = least(t, T - W);  // tiles at the edges overlap
                    f32v r[W];
                    for (int i = 0; i < W; i++) r[i] = load_as_float<In>(data + l * x.stride_b + (c + i) * x.stride_c + at);
                    transpose(r);
                    for (int i = 0; i < W; i++) store(out + (at + i) * pass + l * C + c, r[i]);
                }
        return;
    }
    for (int64_t l = 0; l < n; l++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t t = 0; t < T; t++)
                out[t * pass + l * C + c] = load_one<In>(data + t * x.stride_t + l * x.stride_b + c * x.stride_c);
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
