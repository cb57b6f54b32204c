// Sums over the kept features of one row, for many passes over the same row, without multiplying:
//     y[t][c] = sum_d keep[t][d] v[d][c],   v[d][c] = x[d] w[c][d]
//
// The method of the four Russians (Arlazarov, Dinic, Kronrod, Faradzev 1970). For each group of four features the 16 subset
// sums of their v are computed once (4 products, 11 sums). Then each pass adds one of them, with its four mask bits as index,
// where a matrix product does four multiply-adds. For T = 100 passes that is 0.29 of the operations of the matrix product.
// Measured with AVX2, T = 100, p = 1/2, random bits included: 3872 -> 128 features at 1.6 times the FLOP/s of the same core's
// sgemm, 2048 -> 10 (6 of 16 lanes idle) at its speed. Adding a row of w per kept feature, or subtracting one per dropped
// feature, was as fast at p = 1/4 and half as fast at p = 1/2.
//
// One loop over the passes uses the tables of several groups (24 kB, in L1), so a pass's running sums are loaded and stored
// once for up to 64 features. The sequence of additions of an output does not depend on batch, chunk of passes or thread.
#pragma once

#include "bits.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int64_t kMostVectors = W == 16 ? 4 : 8;  // vectors of classes per panel: 64 classes, or fewer if registers do not suffice
constexpr int64_t kTableBytes = 24576;

// Vectors of classes per panel of packed weights: as few panels as possible, then as narrow as possible.
MC_INLINE int64_t panel_vectors(int64_t C) {
    const int64_t vectors = (C + W - 1) / W, panels = (vectors + kMostVectors - 1) / kMostVectors;
    return panels ? (vectors + panels - 1) / panels : 1;
}
static int64_t panel_classes(int64_t C) { return panel_vectors(C) * W; }

// A subset sum has room for 2^n vectors, so one shift and one mask turn four mask bits into its address.
template <int V> constexpr int kRowLog = V == 1 ? 0 : V == 2 ? 1 : V <= 4 ? 2 : 3;
template <int V> constexpr int kRow = W << kRowLog<V>;
template <int V> constexpr int kFours = (int)(kTableBytes / (64 * kRow<V>) < 16 ? kTableBytes / (64 * kRow<V>) : 16);

// tables[g][s] = sum of v[4 g + i] over the bits i of s, for n <= 4 kFours features.
template <int V> MC_INLINE void subset_sums(const float* x, const float* w, int64_t n, float* tables) {
    constexpr int row = kRow<V>;
    for (int64_t d = 0; d < n; d += 4, tables += 16 * row) {
        for (int i = 0; i < 4; i++) {
            float* const with = tables + (row << i);
            if (d + i < n) {
                const f32v xd = all(x[d + i]);
                for (int v = 0; v < V; v++) store(with + v * W, xd * load<f32v>(w + ((d + i) * V + v) * W));
            } else {
                for (int v = 0; v < V; v++) store(with + v * W, f32v{});
            }
            for (int s = 1; s < 1 << i; s++)
                for (int v = 0; v < V; v++) store(with + s * row + v * W, load<f32v>(with + v * W) + load<f32v>(tables + s * row + v * W));
        }
    }
}

// sums[t][0 .. V W) += sum over the kept features, for one panel of classes and each pass t.
template <int V>
static MC_NOINLINE void subset_panel(const float* x, const float* w, int64_t D, const uint64_t* words, int64_t stride, int64_t first_bit, int64_t passes,
                         float* sums, int64_t width, float* tables) {
    constexpr int fours = kFours<V>, row = kRow<V>, chains = V < 4 ? 2 : 1;  // with few vectors, a second chain of sums hides latency
    constexpr int bytes_log = kRowLog<V> + (W == 16 ? 6 : W == 8 ? 5 : 4);
    for (int g = 0; g < fours; g++)
        for (int v = 0; v < V; v++) store(tables + g * 16 * row + v * W, f32v{});  // the empty subset
    for (int64_t d = 0; d < D; d += 4 * fours) {
        const int64_t n = D - d < 4 * fours ? D - d : 4 * fours;
        const uint64_t valid = n < 64 ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0;
        subset_sums<V>(x + d, w + d * V * W, n, tables);
        for (int64_t t = 0; t < passes; t++) {
            const uint64_t kept = bits_from(words + t * stride, first_bit + d) & valid;
            float* const y = sums + t * width;
            f32v total[chains][V];
            for (int v = 0; v < V; v++) {
                total[0][v] = load<f32v>(y + v * W);
                if (chains > 1) total[chains - 1][v] = f32v{};
            }
#pragma GCC unroll 16
            for (int g = 0; g < fours; g++) {
                const uint64_t shifted = 4 * g < bytes_log ? kept << (bytes_log - 4 * g) % 64 : kept >> (4 * g - bytes_log) % 64;
                const char* const subset = (const char*)tables + (shifted & (uint64_t)15 << bytes_log);
#pragma GCC unroll 8
                for (int v = 0; v < V; v++) total[g % chains][v] += load<f32v>((const float*)subset + g * 16 * row + v * W);
            }
            for (int v = 0; v < V; v++) store(y + v * W, chains > 1 ? total[0][v] + total[chains - 1][v] : total[0][v]);
        }
    }
}

// sums (passes, width) of one row x of D features, whose mask bits start at first_bit of each pass's words.
static void subset_row(const float* x, const float* packed, int64_t D, int64_t C, const uint64_t* words, int64_t stride, int64_t first_bit,
                       int64_t passes, float* sums, int64_t width, float* tables) {
    const int64_t V = panel_vectors(C);
    __builtin_memset(sums, 0, 4 * (size_t)(passes * width));
    for (int64_t c = 0; c < width; c += V * W) {
        const float* const w = packed + c * D;
        float* const y = sums + c;
        switch (V) {
            case 1: subset_panel<1>(x, w, D, words, stride, first_bit, passes, y, width, tables); break;
            case 2: subset_panel<2>(x, w, D, words, stride, first_bit, passes, y, width, tables); break;
            case 3: subset_panel<3>(x, w, D, words, stride, first_bit, passes, y, width, tables); break;
            case 4: subset_panel<4>(x, w, D, words, stride, first_bit, passes, y, width, tables); break;
            case 5: subset_panel<5>(x, w, D, words, stride, first_bit, passes, y, width, tables); break;
            case 6: subset_panel<6>(x, w, D, words, stride, first_bit, passes, y, width, tables); break;
            case 7: subset_panel<7>(x, w, D, words, stride, first_bit, passes, y, width, tables); break;
            default: subset_panel<8>(x, w, D, words, stride, first_bit, passes, y, width, tables);
        }
    }
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
