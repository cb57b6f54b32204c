// Scores and prediction from the sums over all T passes.
#pragma once

#include "sums.h"

namespace mcscore {
namespace MCSCORE_ISA {

struct Results {  // W items, or one item in lane 0
    double entropy[W], deviation[W], minority[W];  // minority: sum over labels of the smaller number of votes, for or against
    double doubt[W];  // softmax: 1 - max p, computed as the sum of the other p; sigmoid: sum of min(p, 1 - p)
    float best[W], second[W];
    int32_t most_votes[W], best_class[W];
};

// Mean probabilities as float32; for sigmoid also 1 - p in `rest`. For up to 32 passes softmax divides the float32 sum.
template <Likelihood L> MC_INLINE void mean_of(Sums& sums, double T, float* mean, float* rest) {
    const int64_t n = sums.steps * W;
    const double share = 1 / T;
    if (L == Likelihood::categorical && !sums.begun) {
        for (int64_t i = 0; i < n; i += W) store(mean + i, load<f32v>(sums.part + i) * (float)share);
        return;
    }
    sums.flush_p();
    for (int64_t i = 0; i < n; i++) mean[i] = (float)(sums.p[i] * share);
    if constexpr (L == Likelihood::bernoulli)
        for (int64_t i = 0; i < n; i++) rest[i] = (float)(1 - sums.p[i] * share);
}

// softmax: adds the term of the best class. Near p = 1, log p = log1p(-q), with q the sum of the other p, keeps its digits.
MC_INLINE void add_best(Results& out) {
    const f32v best = load<f32v>(out.best);
    f32v q;
    for (int l = 0; l < W; l++) q[l] = (float)out.doubt[l];
    const f32v near_1 = log1p(q < 0.5f ? -q : f32v{}), log_p = q < 0.5f ? near_1 : log_positive(max(all(1e-37f), best));
    const f32v term = best * log_p;
    for (int l = 0; l < W; l++) out.entropy[l] -= (double)term[l];
}

template <Likelihood L> MC_INLINE void reduce(Sums& sums, double T, Results& out) {
    float* const mean = sums.part;
    float* const rest = sums.row(0);  // 1 - mean; softmax does not write it, as rows must stay 0 beyond C
    mean_of<L>(sums, T, mean, rest);
    for (int l = 0; l < W; l++) out.entropy[l] = out.doubt[l] = out.deviation[l] = 0;
    i32v minority{}, most_votes{}, best_class{}, index = sums.items ? i32v{} : lane_numbers();
    f32v best{}, second{};
    const int stride = sums.items ? 1 : W;
    constexpr int64_t run = 8;  // vectors per float32 sum
    for (int64_t begin = 0; begin < sums.steps; begin += run) {
        f32v entropies{}, doubts{};
        for (int64_t i = begin; i < least(begin + run, sums.steps); i++, index += stride) {
            f32v p = load<f32v>(mean + i * W), loser;
            if constexpr (L == Likelihood::bernoulli) {
                const f32v q = load<f32v>(rest + i * W);
                loser = p < q ? p : q;
                entropies -= max(p, q) * log1p(-loser);
                p = load<i32v>(sums.turned + i * W) != 0 ? q : p;
            } else {
                loser = p < best ? p : best;  // the smaller of p and the best so far, so the best of all is left out
            }
            entropies -= x_log_x(loser);
            doubts += loser;
            const auto wins = p > best;
            second = wins ? best : max(p, second);
            best_class = wins ? index : best_class;
            best = max(p, best);
        }
        for (int l = 0; l < W; l++) out.entropy[l] += (double)entropies[l];
        for (int l = 0; l < W; l++) out.doubt[l] += (double)doubts[l];
    }
    if (sums.votes)
        for (int64_t i = 0; i < sums.steps; i++) {
            const i32v v = load<i32v>(sums.vote + i * W), other = (int32_t)T - v;
            most_votes = v > most_votes ? v : most_votes;
            minority += v < other ? v : other;
        }
    const double share = 1 / T;
    if (sums.squares) {
        for (int64_t i = 0; i < sums.steps; i++)
            for (int l = 0; l < W; l++) {
                const double m = sums.p[i * W + l] * share, v = sums.p2[i * W + l] * share - m * m;
                out.deviation[l] += __builtin_sqrt(v > 0 ? v : 0);
            }
    }
    for (int l = 0; l < W; l++) out.minority[l] = (double)minority[l];
    store(out.best, best), store(out.second, second), store(out.most_votes, most_votes), store(out.best_class, best_class);
    if (sums.items) {
        if constexpr (L == Likelihood::categorical) add_best(out);
        return;
    }
    if constexpr (L == Likelihood::categorical) {  // the best of each lane but one is not the best of all
        const f32v top = max_lanes(best);
        i32v first = all(-1);
        for (int l = W - 1; l >= 0; l--) first = best[l] == top[l] ? all(l) : first;
        const f32v losers = lane_numbers() == first ? f32v{} : best, terms = x_log_x(losers);
        for (int l = 0; l < W; l++) out.doubt[l] += (double)losers[l], out.entropy[l] -= (double)terms[l];
    }
    for (int l = 1; l < W; l++) {
        out.entropy[0] += out.entropy[l], out.deviation[0] += out.deviation[l], out.doubt[0] += out.doubt[l], out.minority[0] += out.minority[l];
        out.most_votes[0] = most(out.most_votes[0], out.most_votes[l]);
        out.second[0] = most(most(out.second[0], out.second[l]), least(out.best[0], out.best[l]));
        if (out.best[l] > out.best[0] || (out.best[l] == out.best[0] && out.best_class[l] < out.best_class[0]))
            out.best[0] = out.best[l], out.best_class[0] = out.best_class[l];
    }
    if constexpr (L == Likelihood::categorical) add_best(out);
}

// Writes n <= W scores of `value` as float32, NaN for bad items. All W are computed, so that the loop is vectorized.
template <class Value> MC_INLINE void write(float* to, int64_t n, const bool* bad, Value&& value) {
    if (!to) return;
    float scores[W];
    for (int l = 0; l < W; l++) scores[l] = bad[l] ? kNan : (float)value(l);
    if (n == W) __builtin_memcpy(to, scores, sizeof scores);
    else
        for (int64_t l = 0; l < n; l++) to[l] = scores[l];
}

// Writes the scores of the items first..first + n, once all T passes have been added.
template <Likelihood L> static MC_NOINLINE void finish_scores(Sums& sums, const Scores& to, int64_t first, int64_t n, double T, Results& r) {
    sums.flush_entropies();
    reduce<L>(sums, T, r);
    double expected[W];
    for (int l = 0; l < W; l++) expected[l] = sums.entropy_of_passes(l, L == Likelihood::categorical ? r.doubt[l] * T : 0, T) / T;
    const auto put = [&](float* score, auto&& value) { write(score ? score + first : nullptr, n, sums.bad, value); };
    put(to.entropy, [&](int l) { return r.entropy[l]; });
    put(to.expected_entropy, [&](int l) { return expected[l]; });
    put(to.bald, [&](int l) {  // a value of at most the noise becomes 0, a tie
        const double bald = r.entropy[l] - expected[l];
        return bald > kBaldNoise * r.entropy[l] ? bald : 0.0;
    });
    if constexpr (L == Likelihood::bernoulli) {
        put(to.least_confidence, [&](int l) { return r.doubt[l]; });
        put(to.margin, [&](int l) { return 2 * r.doubt[l]; });
        put(to.variation_ratio, [&](int l) { return r.minority[l] / T; });
    } else {
        put(to.least_confidence, [&](int l) { return r.doubt[l]; });
        put(to.margin, [&](int l) { return r.doubt[l] + (double)r.second[l]; });
        put(to.variation_ratio, [&](int l) { return 1 - (double)r.most_votes[l] / T; });
    }
    put(to.mean_std, [&](int l) { return r.deviation[l] / (double)sums.C; });
    for (int64_t l = 0; l < n && to.prediction; l++) {
        const int32_t prediction = L == Likelihood::bernoulli && sums.C == 1 ? (int32_t)(r.best[l] >= 0.5f) : r.best_class[l];
        to.prediction[first + l] = sums.bad[l] ? -1 : prediction;
    }
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
