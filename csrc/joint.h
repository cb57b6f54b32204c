// Entropy of an item's class given the classes of others, for joint selection: the mean over s of h[s, m], and of its square,
// where h[s, m] = H(sum_t rows[s, t] p[m, t, :]).
//
// Row s holds the probability of each pass given configuration s (one class for each of the others); rows[s] sums to 1. So the
// product over t is a distribution over classes, and only its entropy leaves the registers: S M C values never reach memory.
//
// Configurations lie in the lanes, as there are usually more of them than classes: no lane is wasted for any C, and the entropy
// of W configurations is a vertical sum. A pass costs two loads of rows and, for each of at most kColumns classes, one broadcast
// and two FMAs into sums that stay in registers. With C = 10 and T = 100, logarithms take a sixth of the instructions.
#pragma once

#include "exp.h"

namespace mcscore {
namespace MCSCORE_ISA {

#if defined(MC_AVX512)
constexpr int kColumns = 12;  // 24 of 32 registers hold sums
#else
constexpr int kColumns = 6;  // 12 of 16
#endif
constexpr int64_t kTileBytes = 128 << 10;  // probabilities of the items that read a block of rows, while it is in the first cache

// Adds -sum over N classes of q log q to h, for 2 W configurations.
template <int N> static MC_NOINLINE void add_entropy(const float* p_TC, const float* rows, int64_t T, int64_t C, f32v* h) {
    f32v low[N]{}, high[N]{};
    for (int64_t t = 0; t < T; t++, p_TC += C, rows += 2 * W) {
        const f32v a = load<f32v>(rows), b = load<f32v>(rows + W);
#pragma GCC unroll 12
        for (int c = 0; c < N; c++) {
            const f32v p = all(p_TC[c]);
            low[c] = multiply_add(a, p, low[c]), high[c] = multiply_add(b, p, high[c]);
        }
    }
    for (int c = 0; c < N; c++) h[0] -= x_log_x(low[c]), h[1] -= x_log_x(high[c]);
}

template <int N = kColumns> MC_INLINE void add_entropy_of(int columns, const float* p_TC, const float* rows, int64_t T, int64_t C, f32v* h) {
    if (columns == N) return add_entropy<N>(p_TC, rows, T, C, h);
    if constexpr (N > 1) add_entropy_of<N - 1>(columns, p_TC, rows, T, C, h);
}

static void conditional_entropy(const Joint& x, Part part) {
    const int64_t size = x.T * x.C, parts = (x.C + kColumns - 1) / kColumns, width = (x.C + parts - 1) / parts;
    const int64_t tile = most<int64_t>(1, kTileBytes / (4 * size));
    for (int64_t m = part.b0; m < part.b1; m++) x.mean_M[m] = x.square_M[m] = 0;
    for (int64_t first = part.b0; first < part.b1; first += tile)
        for (int64_t block = 0; block < x.blocks; block++) {
            const float *rows = x.rows + block * x.T * 2 * W, *weights = x.weights + block * 2 * W;
            for (int64_t m = first; m < least(first + tile, part.b1); m++) {
                f32v h[2]{};
                for (int64_t c = 0; c < x.C; c += width)
                    add_entropy_of((int)least(width, x.C - c), x.p_MTC + m * size + c, rows, x.T, x.C, h);
                const f32v low = h[0] * load<f32v>(weights), high = h[1] * load<f32v>(weights + W);
                const f32v first = low + high, second = low * h[0] + high * h[1];
                double mean = 0, square = 0;
                for (int l = 0; l < W; l++) mean += (double)first[l], square += (double)second[l];
                x.mean_M[m] += mean, x.square_M[m] += square;
            }
        }
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
