// Dropout and the Linear after it, without a dropped copy of the features:
//     y[t, b, l, c] = bias[c] + a sum_d keep(t, b, l D + d) x[s, b, l, d] w[c, d]
//
// Three ways, one per kind of shape. All read packed weights. The sequence of operations of an output does not depend on the
// batch, the chunk of passes or the thread, so results are equal bit for bit across them.
//
//   subset  all passes read one x: sums over subsets are looked up instead of multiplied, see subset.h
//   dot     each pass has its own x, and classes are few: lanes are features; accumulators of kRows passes x kDots classes share loads
//   dense   each pass has its own x, and classes are many: masked rows are built in cache and multiplied together, as the packed
//           operand of a matrix product
#pragma once

#include "subset.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int kRows = W == 16 ? 4 : 2;    // dot: passes at a time
constexpr int kDots = W == 16 ? 6 : W == 8 ? 5 : 4;  // dot: classes at a time; it takes kRows * kDots + kRows + 1 registers
constexpr int kPanelRows = 6, kPanelVectors = W == 16 ? 4 : 2;  // dense: accumulators of the micro-kernel
constexpr int64_t kDepth = 256;           // dense: features at a time; their weights for one panel (16 kB) stay in L1
constexpr int kGroup = 8 * kPanelRows;    // dense: masked rows at a time, 48 kB in L2, that share each panel of weights

// Lane l is that of x if bit J W + l of the word is set, else 0. `spread` has the word in every lane.
template <int J> MC_INLINE f32v where_set(f32v x, uint32_t word, i32v spread) {
#if defined(MC_AVX512)
    return (f32v)_mm512_maskz_mov_ps((__mmask16)(word >> (J * W)), (__m512)x);
#endif
    i32v select{};
    for (int l = 0; l < W; l++) select[l] = (int32_t)(1u << (J * W + l));
    return bits<f32v>(((spread & select) == select) & bits<i32v>(x));
}

template <int J> MC_INLINE void mask_32(const float* x, uint32_t word, i32v spread, int64_t n, float* masked) {
    if constexpr (J * W < 32) {
        const f32v v = n >= (J + 1) * W ? load<f32v>(x + J * W) : load_first<Type::f32>(x + J * W, (int)(n - J * W));
        store(masked + J * W, where_set<J>(v, word, spread));
        if (n > (J + 1) * W) mask_32<J + 1>(x, word, spread, n, masked);
    }
}

// masked[d] = keep(d) x[d] for d < n, and 0 up to the next multiple of W. Reads nothing beyond x[n - 1].
MC_INLINE void mask_row(const float* x, const uint64_t* words, int64_t e, int64_t n, float* masked) {
    int64_t d = 0;
    for (; d + 32 <= n; d += 32) {
        const uint32_t word = (uint32_t)bits_from(words, e + d);
        mask_32<0>(x + d, word, all((int32_t)word), 32, masked + d);
    }
    if (d < n) {
        const uint32_t word = (uint32_t)bits_from(words, e + d);
        mask_32<0>(x + d, word, all((int32_t)word), n - d, masked + d);
    }
}

// ---- the two inner loops -----------------------------------------------------------------------------------------------

// out[r][c] = sum_d masked[r][d] w[c][d], rows of w and of masked padded with zeros to a multiple of W.
template <int R, int N> MC_INLINE void dots(const float* masked, int64_t ldm, const float* w, int64_t ldw, int64_t D, float* out, int64_t ldo) {
    f32v sums[R][N];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < N; c++) sums[r][c] = f32v{};
    for (int64_t d = 0; d < D; d += W) {
        f32v x[R];
        for (int r = 0; r < R; r++) x[r] = load<f32v>(masked + r * ldm + d);
#pragma GCC unroll 8
        for (int c = 0; c < N; c++) {
            const f32v wc = load<f32v>(w + c * ldw + d);
            for (int r = 0; r < R; r++) sums[r][c] = multiply_add(x[r], wc, sums[r][c]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < N; c++) out[r * ldo + c] = sum_lanes(sums[r][c])[0];
}

template <int R> MC_INLINE void dots_of(int n, const float* masked, int64_t ldm, const float* w, int64_t ldw, int64_t D, float* out, int64_t ldo) {
    switch (n) {
        case 1: return dots<R, 1>(masked, ldm, w, ldw, D, out, ldo);
        case 2: return dots<R, 2>(masked, ldm, w, ldw, D, out, ldo);
        case 3: return dots<R, 3>(masked, ldm, w, ldw, D, out, ldo);
        case 4: return dots<R, 4>(masked, ldm, w, ldw, D, out, ldo);
        case 5: return dots<R, 5>(masked, ldm, w, ldw, D, out, ldo);
        default: return dots<R, 6>(masked, ldm, w, ldw, D, out, ldo);
    }
}

// y[r][0 .. kPanelVectors W) += sum_d masked[r][d] w[d][...]
template <int R> MC_INLINE void panel(const float* masked, const float* w, int64_t n, float* y, int64_t ldy) {
    f32v sums[R][kPanelVectors];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < kPanelVectors; v++) sums[r][v] = load<f32v>(y + r * ldy + v * W);
    for (int64_t d = 0; d < n; d++) {
        f32v wd[kPanelVectors];
        for (int v = 0; v < kPanelVectors; v++) wd[v] = load<f32v>(w + (d * kPanelVectors + v) * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const f32v x = all(masked[r * kDepth + d]);
            for (int v = 0; v < kPanelVectors; v++) sums[r][v] = multiply_add(x, wd[v], sums[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < kPanelVectors; v++) store(y + r * ldy + v * W, sums[r][v]);
}

// ---- the loops around them ------------------------------------------------------------------------------------------------

// One item, passes [t0, t1), one row l of its features: sums (t1 - t0, width) without bias and scale.
static void dot_rows(const Linear& f, const uint64_t* words, int64_t stride, int64_t b, int64_t l, int64_t t0, int64_t t1, int64_t B, float* sums) {
    float* const masked = f.scratch;  // kRows x padded D
    for (int64_t t = t0; t < t1; t += kRows) {
        const int rows = (int)(t1 - t < kRows ? t1 - t : kRows);
        for (int r = 0; r < rows; r++) {
            const float* x = f.x_sBLD + (((f.s == 1 ? 0 : t + r) * B + b) * f.L + l) * f.D;
            mask_row(x, words + (t - t0 + r) * stride, l * f.D, f.D, masked + r * f.padded);
        }
        const int chunks = (int)((f.C + kDots - 1) / kDots);
        for (int i = 0; i < chunks; i++) {  // classes in equal shares: 10 as 5 + 5
            const int64_t c0 = f.C * i / chunks, c1 = f.C * (i + 1) / chunks;
            float* const out = sums + (t - t0) * f.width + c0;
            const float* const w = f.packed + c0 * f.padded;
            if (rows == kRows) dots_of<kRows>((int)(c1 - c0), masked, f.padded, w, f.padded, f.padded, out, f.width);
            else
                for (int r = 0; r < rows; r++)
                    dots_of<1>((int)(c1 - c0), masked + r * f.padded, f.padded, w, f.padded, f.padded, out + r * f.width, f.width);
        }
    }
}

template <int R> MC_INLINE void panel_of(int rows, const float* masked, const float* w, int64_t n, float* y, int64_t ldy) {
    if constexpr (R > 0) {
        if (rows == R) panel<R>(masked, w, n, y, ldy);
        else panel_of<R - 1>(rows, masked, w, n, y, ldy);
    }
}

// Rows [q0, q1) of an item: row q is row q % L of pass t0 + q / L.
static void dense_rows(const Linear& f, const uint64_t* words, int64_t stride, int64_t b, int64_t t0, int64_t q0, int64_t q1, int64_t B, float* sums) {
    float* const masked = f.scratch;  // kGroup x kDepth
    const int rows = (int)(q1 - q0);
    for (int64_t i = 0; i < rows * f.width; i++) sums[i] = 0;
    for (int64_t d = 0; d < f.D; d += kDepth) {
        const int64_t n = f.D - d < kDepth ? f.D - d : kDepth;
        for (int r = 0; r < rows; r++) {
            const int64_t t = (q0 + r) / f.L, l = (q0 + r) % f.L;
            const float* x = f.x_sBLD + (((f.s == 1 ? 0 : t0 + t) * B + b) * f.L + l) * f.D + d;
            mask_row(x, words + t * stride, l * f.D + d, n, masked + r * kDepth);
        }
        for (int64_t c = 0; c < f.width; c += kPanelVectors * W) {
            const float* const w = f.packed + c * f.D + d * kPanelVectors * W;
            int r = 0;
            for (; r + kPanelRows <= rows; r += kPanelRows) panel<kPanelRows>(masked + r * kDepth, w, n, sums + r * f.width + c, f.width);
            panel_of<kPanelRows - 1>(rows - r, masked + r * kDepth, w, n, sums + r * f.width + c, f.width);
        }
    }
}

// y[c] = a sums[c] + bias[c], by multiply_add for the reason given there.
MC_INLINE void finish(const Linear& f, const float* sums, float* y) {
    for (int64_t c = 0; c < f.C; c += W) {
        const int n = (int)(f.C - c < W ? f.C - c : W);
        const f32v sum = load_first<Type::f32>(sums + c, n), bias = f.bias_C ? load_first<Type::f32>(f.bias_C + c, n) : f32v{};
        const f32v out = multiply_add(all(f.a), sum, bias);
        if (n == W) store(y + c, out);
        else store_first<Type::f32>(y + c, n, out);
    }
}

static bool dropout_linear(const Masks& m, const Linear& given, Part part) {
    Linear f = given;
    const int64_t stride = words_per_row(m);
    // Passes at a time: as many as have bits and sums that stay in L2, in a multiple of the passes that each way processes
    // together. For the subset way it is more, as they share its tables.
    int64_t block = (f.how == How::subset ? 262144 : 65536) / (8 * stride + 4 * f.width) / 12 * 12;
    block = block < 12 ? 12 : block;
    block = block < part.t1 - part.t0 ? block : part.t1 - part.t0;
    const int64_t rows = f.how == How::dense ? kGroup : block;
    const int64_t own = f.how == How::dot ? kRows * f.padded : f.how == How::subset ? kTableBytes / 4 : kGroup * kDepth;
    void* const memory = __builtin_malloc(8 * (size_t)(block * stride) + 4 * (size_t)(rows * f.width + own + W));
    if (!memory) return false;
    uint64_t* const words = (uint64_t*)memory;
    float* const sums = (float*)(words + block * stride);
    f.scratch = sums + rows * f.width;
    for (int64_t b = part.b0; b < part.b1; b++)
        for (int64_t t0 = part.t0; t0 < part.t1; t0 += block) {
            const int64_t t1 = part.t1 - t0 < block ? part.t1 : t0 + block;
            bits_of(m, b, t0, t1, words, stride);
            float* const y = f.y_tBLC + b * f.L * f.C;  // of item b in pass 0
            const int64_t pass = m.B * f.L * f.C;
            if (f.how == How::dense) {
                for (int64_t q = 0; q < (t1 - t0) * f.L; q += kGroup) {
                    const int64_t end = (t1 - t0) * f.L - q < kGroup ? (t1 - t0) * f.L : q + kGroup;
                    dense_rows(f, words, stride, b, t0, q, end, m.B, sums);
                    for (int64_t r = q; r < end; r++) finish(f, sums + (r - q) * f.width, y + (t0 + r / f.L) * pass + r % f.L * f.C);
                }
                continue;
            }
            for (int64_t l = 0; l < f.L; l++) {
                if (f.how == How::dot) dot_rows(f, words, stride, b, l, t0, t1, m.B, sums);
                else subset_row(f.x_sBLD + (b * f.L + l) * f.D, f.packed, f.D, f.C, words, stride, l * f.D, t1 - t0, sums, f.width, f.scratch);
                for (int64_t t = t0; t < t1; t++) finish(f, sums + (t - t0) * f.width, y + t * pass + l * f.C);
            }
        }
    __builtin_free(memory);
    return true;
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
