// Sums over the passes of each jackknife group, from which standard errors and biases of scores come (errors.h).
//
// Groups are runs of consecutive passes, as mcscore/jackknife.py defines them. Their sums of p lie beside those over all passes and stay
// in L2: at most kMaxGroups C values of an item. Up to four passes of a group are added as they are added to the sum over all, so
// that T = 100 (25 groups of four passes) costs one more store for four rows.
#pragma once

#include "rows.h"

namespace mcscore {
namespace MCSCORE_ISA {

struct PassGroups {
    int64_t count, size, stride;  // groups (0: no errors are asked for), passes in each but the last, values from group to group
    int log_size;  // a shift: dividing took 5 % of the time of the scores
    float* p;                     // (count, stride), or null: not needed
    double *wide, *wide2;         // the same of p and p^2 in float64 for mean_std, or null
    int32_t* vote;                // or null
    float *h, *q;  // sums of H - q and of q, see Sums. W items per group, or one value
    float *m, *share, *weight, *others, *inverse;  // per group: m, 1 / (T - m), 1 - m / T, h - 1 = (T - m) / m, 1 / (h - 1). Beyond `count` 0
    float *ratio, *level, *mean, *odds;  // per class, see errors.h
    int64_t values;  // of h and of q

    static int64_t group_size(int64_t T) {
        int64_t size = 1;
        while ((T + size - 1) / size > kMaxGroups) size *= 2;
        return size;
    }
    // width: values of a row, `distance` from group to group.
    template <class Take> MC_INLINE void lay_out(int64_t T, int64_t width, int64_t distance, bool items, bool want_p, bool squares, bool votes, Take&& take) {
        size = group_size(T), log_size = __builtin_ctzll((unsigned long long)size), count = (T + size - 1) / size, stride = distance, values = items ? count * W : kMaxGroups + W;
        const size_t all_classes = (size_t)(count * stride);
        p = want_p ? (float*)take(4 * all_classes) : nullptr;
        wide = squares ? (double*)take(8 * all_classes) : nullptr, wide2 = squares ? (double*)take(8 * all_classes) : nullptr;
        vote = votes ? (int32_t*)take(4 * all_classes) : nullptr;
        h = (float*)take(4 * (size_t)values), q = (float*)take(4 * (size_t)values);
        float** const of_groups[] = {&m, &share, &weight, &others, &inverse};
        float** const of_classes[] = {&ratio, &level, &mean, &odds};
        for (float** values_of : of_groups) *values_of = (float*)take(4 * (kMaxGroups + W));
        for (float** values_of : of_classes) *values_of = (float*)take(4 * (size_t)width);
    }
    MC_INLINE void begin(int64_t T) {
        for (int64_t g = 0; g < kMaxGroups + W; g++) {
            const double some = g < count ? (double)least(size, T - g * size) : 0, rest = (double)T - some;
            m[g] = (float)some, share[g] = some > 0 ? (float)(1 / rest) : 0, weight[g] = some > 0 ? (float)(rest / (double)T) : 0;
            others[g] = some > 0 ? (float)(rest / some) : 0, inverse[g] = some > 0 ? (float)(some / rest) : 0;
        }
    }
    MC_INLINE void clear() {
        const size_t all_classes = (size_t)(count * stride);
        __builtin_memset(h, 0, 4 * (size_t)values), __builtin_memset(q, 0, 4 * (size_t)values);
        if (wide) __builtin_memset(wide, 0, 8 * all_classes), __builtin_memset(wide2, 0, 8 * all_classes);
        if (vote) __builtin_memset(vote, 0, 4 * all_classes);
    }
    MC_INLINE int64_t of(int64_t pass) const { return pass >> log_size; }
    MC_INLINE int32_t* votes_of(int64_t pass) const { return vote ? vote + of(pass) * stride : nullptr; }
    MC_INLINE float* p_of(int64_t pass) const { return p + of(pass) * stride; }
};

}  // namespace MCSCORE_ISA
}  // namespace mcscore
