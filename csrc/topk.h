// Filter of scores that may be among the k best: those whose key exceeds the k-th best key so far, the cut.
//
//   key = order(score) << 32 | ~id,   order: the bits of a float32 as an unsigned integer with the same order
//
// A greater key is a better item: score descending, then id ascending; -0.0 equals 0.0; NaN is left out. Four vectors are compared
// with the score of the cut together. Most vectors contain no candidate, and cost a load, a comparison and a quarter of a branch.
#pragma once

#include "bits.h"

namespace mcscore {
namespace MCSCORE_ISA {

MC_INLINE uint64_t key_of(float score, uint32_t id) {
    const uint32_t u = bits<uint32_t>(score + 0.0f);
    const uint32_t order = u ^ ((uint32_t)((int32_t)u >> 31) | 0x80000000u);
    return (uint64_t)order << 32 | ~id;
}

MC_INLINE float score_of_key(uint64_t key) {
    const uint32_t order = (uint32_t)(key >> 32);
    return bits<float>(order >> 31 ? order ^ 0x80000000u : ~order);
}

MC_INLINE bool any_below(const int64_t* ids, int64_t n, int64_t limit) {
    typedef int64_t i64v __attribute__((vector_size(4 * W)));
    i64v below{};
    for (int64_t i = 0; i < n; i += W / 2) below |= load<i64v>(ids + i) < limit;
    return lane_bits(bits<i32v>(below)) != 0;
}

static Filtered filter_above(const Candidates& x, uint64_t cut, uint64_t* keys, int64_t room) {
    constexpr int64_t step = 4 * W;
    const float limit = cut ? score_of_key(cut) : -__builtin_inff();
    const uint32_t cut_id = ~(uint32_t)cut;
    int64_t found = 0;
    const auto id_of = [&](int64_t i) { return x.ids ? x.ids[i] : x.first_id + i; };
    // Writes the key of item i if it exceeds the cut. False if there is no room, or its id does not fit 32 bits.
    const auto take = [&](int64_t i) {
        if (!(x.scores[i] >= limit) || (x.exclude && x.exclude[i])) return true;
        const int64_t id = id_of(i);
        if (id < 0 || id > 0xffffffffLL) return false;
        if (cut && x.scores[i] == limit && (uint32_t)id >= cut_id) return true;  // ties are common, and are decided without a key
        if (found == room) return false;
        keys[found++] = key_of(x.scores[i], (uint32_t)id);
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
        if (cut && !x.ids && x.first_id + i >= (int64_t)cut_id) {  // ids rise, so no tie exceeds the cut from here on
            if (!lane_bits((a > limit) | (b > limit) | (c > limit) | (d > limit))) continue;
            some = bits_of_step(s, [&](f32v v) { return v > limit; });
        } else {
            if (!lane_bits((a >= limit) | (b >= limit) | (c >= limit) | (d >= limit))) continue;
            // If no score exceeds that of the cut, ids decide the ties, also by comparisons of vectors.
            if (cut && x.ids && !lane_bits((a > limit) | (b > limit) | (c > limit) | (d > limit)) && !any_below(x.ids + i, step, cut_id)) continue;
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
