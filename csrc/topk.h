// Filter of scores that may be among the k best: those that are better than the k-th best so far, the cut.
//
//   better: score > limit, or score = limit and id <= last_tied;  NaN never is, and -0.0 equals 0.0
//
// Four vectors are compared with the score of the cut together. Most vectors contain no candidate, and cost a load, a comparison and a
// quarter of a branch. Before there is a cut, limit is -infinity and last_tied the largest id.
#pragma once

#include "bits.h"

namespace mcscore {
namespace MCSCORE_ISA {

MC_INLINE bool any_upto(const int64_t* ids, int64_t n, int64_t last) {
    typedef int64_t i64v __attribute__((vector_size(4 * W)));
    i64v upto{};
    for (int64_t i = 0; i < n; i += W / 2) upto |= load<i64v>(ids + i) <= last;
    return lane_bits(bits<i32v>(upto)) != 0;
}

static Filtered filter_above(const Candidates& x, float limit, int64_t last_tied, int64_t* ids, float* scores, int64_t room) {
    constexpr int64_t step = 4 * W;
    int64_t found = 0;
    // Writes item i if it is better than the cut. False if there is no room, or its id is negative.
    const auto take = [&](int64_t i) {
        if (!(x.scores[i] >= limit) || (x.exclude && x.exclude[i])) return true;
        const int64_t id = x.ids ? x.ids[i] : x.first_id + i;
        if (id < 0) return false;
        if (x.scores[i] == limit && id > last_tied) return true;  // ties are common
        if (found == room) return false;
        ids[found] = id;
        scores[found++] = x.scores[i] + 0.0f;
        return true;
    };
    const auto bits_of_step = [&](const float* s, auto&& passes) {
        uint64_t some = 0;
        for (int v = 0; v < 4; v++) some |= (uint64_t)lane_bits(passes(load<f32v>(s + v * W))) << (v * W);
        return some;
    };
    int64_t i = 0;
    for (; i + step <= x.n; i += step) {
        const float* const s = x.scores + i;
        const f32v a = load<f32v>(s), b = load<f32v>(s + W), c = load<f32v>(s + 2 * W), d = load<f32v>(s + 3 * W);
        uint64_t some;
        if (!x.ids && x.first_id + i > last_tied) {  // ids rise, so no tie is better than the cut from here on
            if (!lane_bits((a > limit) | (b > limit) | (c > limit) | (d > limit))) continue;
            some = bits_of_step(s, [&](f32v v) { return v > limit; });
        } else {
            if (!lane_bits((a >= limit) | (b >= limit) | (c >= limit) | (d >= limit))) continue;
            // If no score exceeds that of the cut, ids decide the ties, also by comparisons of vectors.
            if (x.ids && !lane_bits((a > limit) | (b > limit) | (c > limit) | (d > limit)) && !any_upto(x.ids + i, step, last_tied)) continue;
            some = bits_of_step(s, [&](f32v v) { return v >= limit; });
        }
        for (; some; some &= some - 1) {
            const int64_t j = i + __builtin_ctzll(some);
            if (!take(j)) return {found, j};
        }
    }
    for (; i < x.n; i++)
        if (!take(i)) return {found, i};
    return {found, x.n};
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
