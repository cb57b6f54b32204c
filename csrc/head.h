// Dropout, the model's last Linear and the scores in one kernel: features (B, D) in, scores (B,) out.
//     x_t = bias + a W (keep_t h)  for each pass t,   then the scores of score.h from logits (T, B, C)
//
// The logits of a group of items (W, or one if lanes are classes) are kept in L2 for at most kPassBlock passes at a time; neither
// T x D dropped features nor T x C logits reach main memory. Per item: at least T D / 8 random bytes, and 2 T D C FLOPs.
#pragma once

#include "score.h"
#include "subset.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int64_t kPassBlock = 128;  // a multiple of kFlush, so sums over passes do not depend on it

template <Likelihood L> static bool dropout_head_of(const Masks& m, const Head& f, const Scores& to, Part part) {
    Sums sums;
    const int64_t group = f.C <= kLanesAreItems ? W : 1, block = least(m.t, kPassBlock), stride = words_per_row(m);
    const size_t words_bytes = 8 * (size_t)(block * stride), sums_bytes = 4 * (size_t)(block * f.width);
    const size_t logits_bytes = 4 * (size_t)(block * group * f.C + W);  // the last vector may extend beyond the end
    char* const memory = (char*)__builtin_malloc(words_bytes + sums_bytes + logits_bytes + kTableBytes + 64);
    if (!memory) return false;
    const int64_t grouped = has_errors(to) ? m.t : 0;
    if (!sums.allocate(f.C, to.mean_std != nullptr, to.variation_ratio != nullptr, L == Likelihood::bernoulli, grouped, errors_need_p(to))) {
        __builtin_free(memory);
        return false;
    }
    float* const tables = (float*)(((uintptr_t)memory + 63) / 64 * 64);
    uint64_t* const words = (uint64_t*)((char*)tables + kTableBytes);
    float* const kept = (float*)((char*)words + words_bytes);
    float* const logits = (float*)((char*)kept + sums_bytes);
    const double T = (double)m.t;
    for (int64_t b = part.b0; b < part.b1; b += group) {
        const int64_t n = least(group, part.b1 - b);
        sums.clear();
        for (int64_t t0 = 0; t0 < m.t; t0 += block) {
            const int64_t passes = least(block, m.t - t0);
            for (int64_t l = 0; l < n; l++) {
                bits_of(m, b + l, t0, t0 + passes, words, stride);
                subset_row(f.x_BD + (b + l) * f.D, f.packed, f.D, f.C, words, stride, 0, passes, kept, f.width, tables);
                for (int64_t t = 0; t < passes; t++) {
                    float* const out = logits + (t * group + l) * f.C;
                    for (int64_t c = 0; c < f.C; c++) out[c] = f.a * kept[t * f.width + c] + (f.bias_C ? f.bias_C[c] : 0.0f);
                }
            }
            add_passes<Type::f32, L>({logits, Type::f32, passes, n, f.C, group * f.C, f.C, 1}, 0, n, sums);
        }
        finish<L>(sums, to, b, n, T);
    }
    __builtin_free(sums.memory);
    __builtin_free(memory);
    return true;
}

static bool dropout_head(const Masks& m, const Head& f, Likelihood likelihood, const Scores& to, Part part) {
    return likelihood == Likelihood::categorical ? dropout_head_of<Likelihood::categorical>(m, f, to, part) : dropout_head_of<Likelihood::bernoulli>(m, f, to, part);
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
