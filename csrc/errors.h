// Standard errors and biases of the scores of a group of items, from the sums over each jackknife group of passes (mcscore/jackknife.py).
//
// A score without the passes of group g differs from the score by delta_g, which is computed as such and not as a difference. With
// p the mean probability, S_g the sum of p over the m passes of the group:
//   d = (m p - S_g) / (T - m)   the change of p,   x = d / p in [-1, 1]
//   entropy:  H(p + d) - H(p) = -sum d log p - sum p f(x),   f(x) = (1 + x) log(1 + x) - x,   as sum d = 0
// so log p and 1 / p are computed once for all groups, and no digits cancel; f is a polynomial. softmax: d of the
// best class is the negative sum of the others, which keeps its digits where p is near 1. sigmoid: both outcomes of each label.
// Float32 throughout: an error is off by at most about 2^-20 of the entropy, as BALD itself is; by 2 % of itself, or 10 % where one group
// has nearly all of a class; and of two or three passes, where the errors of BALD cancel to 0, by a tenth of BALD.
#pragma once

#include "reduce.h"

namespace mcscore {
namespace MCSCORE_ISA {

enum ScoreIndex { kEntropy, kExpectedEntropy, kBald, kLeastConfidence, kMargin, kVariationRatio, kMeanStd };

MC_INLINE bool errors_need_p(const Scores& to) {
    return has_errors(to) && (to.entropy || to.expected_entropy || to.bald || to.least_confidence || to.margin);
}

// g in f(x) = x^2 g(x), for x in [-1, 1]: within 0.4 % where |x| < 0.3, 0.6 % from -0.8 on, 3.2 % from -0.95 on, and 10 % at -1, where
// log T times as much of BALD is lost as that f. (A fraction of quadratics is within 0.31 % everywhere, at 5 % of the time of the scores.)
MC_INLINE f32v divergence(f32v x) {
    f32v g = multiply_add(all(0.0896032894f), x, all(-0.0966209896f));
    g = multiply_add(g, x, all(0.0564605082f)), g = multiply_add(g, x, all(-0.1586577431f));
    return multiply_add(g, x, all(0.5012938377f));
}

constexpr float kSmallestMean = 1e-30f;  // a class of a smaller mean probability changes no entropy that float32 holds

// What the classes give for one group: W items, or the lanes of one item.
struct Change {
    f32v entropy, others;  // softmax: sums over all classes but the best of d log p + p f and of d; sigmoid: over all labels
    f32v first, second;    // softmax: the two largest p + d of the others; sigmoid: first is the sum of the changes of min(p, 1 - p)
};

// Fills ratio = 1 / (p (T - m)), level = p log p, mean = p; 0 for the best class of softmax and where p is 0. sigmoid: level = p log(p / q)
// and odds = p / q with q = 1 - p.
template <Likelihood L> MC_INLINE void prepare_classes(Sums& sums, const Results& r) {
    PassGroups& g = sums.groups;
    const f32v share = all(g.share[0]);
    const i32v best = load<i32v>(r.best_class);
    for (int64_t i = 0; i < sums.steps; i++) {
        f32v p = load<f32v>(sums.part + i * W);
        if constexpr (L == Likelihood::categorical)
            if (sums.items) p = best == (int32_t)i ? f32v{} : p;
        p = p < kSmallestMean ? f32v{} : p;
        const f32v safe = max(all(kSmallestMean), p), log_p = log_positive(safe);
        store(g.ratio + i * W, p > 0.0f ? share / safe : f32v{});
        store(g.mean + i * W, p);
        if constexpr (L == Likelihood::bernoulli) {
            const f32v q = load<f32v>(sums.row(0) + i * W), safe_q = max(all(kSmallestMean), q);
            store(g.level + i * W, p * (log_p - log_positive(safe_q)));
            store(g.odds + i * W, q > kSmallestMean ? p / safe_q : f32v{});
        } else {
            store(g.level + i * W, p * log_p);
        }
    }
    if (L == Likelihood::categorical && !sums.items) {
        const int64_t c = r.best_class[0];
        g.ratio[c] = g.level[c] = g.mean[c] = 0;
    }
}

template <Likelihood L, bool Tops> MC_INLINE Change change_of(const Sums& sums, int64_t group) {
    const PassGroups& g = sums.groups;
    const float* const p_of_group = g.p + group * g.stride;
    const f32v none = all(g.m[group] * g.share[group]);
    f32v entropy{}, others{}, first{}, second{};
    for (int64_t i = 0; i < sums.steps * W; i += W) {
        const f32v p = load<f32v>(g.mean + i), x = multiply_add(-load<f32v>(p_of_group + i), load<f32v>(g.ratio + i), none);
        if constexpr (L == Likelihood::categorical) {
            const f32v d = p * x;
            others += d;
            entropy = multiply_add(x, multiply_add(d, divergence(x), load<f32v>(g.level + i)), entropy);
            if constexpr (Tops) {
                const f32v changed = multiply_add(p, x, p);
                second = max(changed < first ? changed : first, second);
                first = max(changed, first);
            }
        } else {
            // d log(p / q) + p f(x) + q f(y) with q y = -d
            const f32v d = p * x, y = -x * load<f32v>(g.odds + i);
            entropy += x * load<f32v>(g.level + i) + d * (x * divergence(x) - y * divergence(y));
            if constexpr (Tops) {
                // Where the smaller outcome stays the smaller one the change is d or -d, with all its digits.
                const f32v q = load<f32v>(sums.row(0) + i), changed = p + d, rest = q - d;
                const f32v kept = p <= q ? d : -d, other = (changed <= rest ? changed : rest) - (p <= q ? p : q);
                first += (p <= q) == (changed <= rest) ? kept : other;
            }
        }
    }
    return {entropy, others, first, second};
}

// The changes of all groups: vectors over W items, one per group; or over W groups, of one item.
struct Changes {
    float entropy[(kMaxGroups + W) * W], others[(kMaxGroups + W) * W], first[(kMaxGroups + W) * W], second[(kMaxGroups + W) * W];
};

template <Likelihood L, bool Tops> MC_INLINE void collect(const Sums& sums, const Change& c, int64_t group, Changes& to) {
    if (sums.items) {
        store(to.entropy + group * W, c.entropy), store(to.others + group * W, c.others);
        if (Tops) store(to.first + group * W, c.first), store(to.second + group * W, c.second);
        return;
    }
    to.entropy[group] = sum_lanes(c.entropy)[0], to.others[group] = sum_lanes(c.others)[0];
    if (Tops && L == Likelihood::bernoulli) to.first[group] = sum_lanes(c.first)[0];
    if (Tops && L == Likelihood::categorical) {
        float first = 0, second = 0;
        for (int l = 0; l < W; l++) {
            second = most(most(second, c.second[l]), least(first, c.first[l]));
            first = most(first, c.first[l]);
        }
        to.first[group] = first, to.second[group] = second;
    }
}

template <Likelihood L, bool Tops> static MC_NOINLINE void collect(Sums& sums, Changes& to) {
    PassGroups& g = sums.groups;
    for (int64_t k = 0; k < g.count; k++) {
        if (g.m[k] != g.m[0])  // the last group may be smaller
            for (int64_t i = 0; i < sums.steps * W; i++) g.ratio[i] *= g.share[k] / g.share[0];
        collect<L, Tops>(sums, change_of<L, Tops>(sums, k), k, to);
    }
    for (int64_t k = g.count; k < kMaxGroups + W && !sums.items; k++) to.entropy[k] = to.others[k] = to.first[k] = to.second[k] = 0;
}

// Standard error and bias of one score, whose change without the groups of vector v is delta(v).
template <class Delta> MC_INLINE void estimate(const Sums& sums, float* se, float* bias, int64_t first, int64_t n, Delta&& delta) {
    const PassGroups& g = sums.groups;
    const int64_t vectors = sums.items ? g.count : (g.count + W - 1) / W;
    const auto of_group = [&](const float* values, int64_t v) { return sums.items ? all(values[v]) : load<f32v>(values + v * W); };
    f32v changes[kMaxGroups], sum{}, square{};
    for (int64_t v = 0; v < vectors; v++) changes[v] = delta(v), sum += of_group(g.weight, v) * changes[v];
    if (!sums.items) sum = sum_lanes(sum);
    for (int64_t v = 0; v < vectors; v++) {
        const f32v off = of_group(g.others, v) * changes[v] - sum;
        square += off * off * of_group(g.inverse, v);
    }
    if (!sums.items) square = sum_lanes(square);
    const f32v error = square_root(square / (float)g.count);
    write(se ? se + first : nullptr, n, sums.bad, [&](int l) { return error[l]; });
    write(bias ? bias + first : nullptr, n, sums.bad, [&](int l) { return sum[l]; });
}

// The sum over classes (or labels) of value(group, class as it lies), for the groups of vector v.
template <class Value> MC_INLINE f32v over_classes(const Sums& sums, int64_t v, Value&& value) {
    f32v out{};
    for (int l = 0; l < W; l++) {
        const int64_t group = sums.items ? v : v * W + l;
        double sum = 0;
        for (int64_t c = 0; c < sums.C && group < sums.groups.count; c++) sum += value(group, sums.items ? c * W + l : c);
        out[l] = (float)sum;
    }
    return out;
}

template <Likelihood L> static MC_NOINLINE void finish_errors(Sums& sums, const Scores& to, int64_t first, int64_t n, double T, const Results& r) {
    PassGroups& g = sums.groups;
    constexpr bool softmax = L == Likelihood::categorical;
    const auto put = [&](ScoreIndex score, auto&& delta) { estimate(sums, to.se[score], to.bias[score], first, n, delta); };
    const auto of_group = [&](const float* values, int64_t v) { return sums.items ? all(values[v]) : load<f32v>(values + v * W); };
    const auto of_item = [&](auto&& value) {  // one value per item
        f32v out;
        for (int l = 0; l < W; l++) out[l] = (float)value(sums.items ? l : 0);
        return out;
    };
    if (g.p) {
        if (sums.squares)
            for (int64_t i = 0; i < g.count * g.stride; i++) g.p[i] = (float)g.wide[i];
        Changes changes;
        prepare_classes<L>(sums, r);
        if (to.least_confidence || to.margin) collect<L, true>(sums, changes);
        else collect<L, false>(sums, changes);

        double h[W] = {}, q[W] = {};
        for (int64_t i = 0; i < g.count * (sums.items ? W : 1); i++) h[sums.items ? i % W : 0] += (double)g.h[i], q[sums.items ? i % W : 0] += (double)g.q[i];
        const f32v mean_h = of_item([&](int l) { return h[l] / T; }), mean_q = of_item([&](int l) { return q[l] / T; });
        const auto surely = of_item([&](int l) { return softmax && sums.one_winner(l, r.doubt[l] * T, T) ? 1.0f : 0.0f; }) > 0.0f;
        const f32v best = of_item([&](int l) { return r.best[l]; }), second = of_item([&](int l) { return r.second[l]; });
        const f32v doubt = of_item([&](int l) { return softmax ? r.doubt[l] : 0; });
        const f32v safe = max(all(kSmallestMean), best);
        const f32v near_1 = log1p(doubt < 0.5f ? -doubt : f32v{}), log_best = doubt < 0.5f ? near_1 : log_positive(safe);

        const auto others = [&](int64_t v) { return load<f32v>(changes.others + v * W); };
        const f32v safe_share = 1.0f / safe;
        f32v entropy[kMaxGroups], expected[kMaxGroups];  // the changes of both
        for (int64_t v = 0; v < (sums.items ? g.count : (g.count + W - 1) / W); v++) {
            const f32v m = of_group(g.m, v), share = of_group(g.share, v), d = -others(v);
            entropy[v] = -load<f32v>(changes.entropy + v * W);
            const f32v x = d * safe_share;
            if (softmax) entropy[v] -= d * (log_best + x * divergence(x));
            const f32v rest = (m * mean_h - load<f32v>(g.h + v * W)) * share, lost = (m * mean_q - load<f32v>(g.q + v * W)) * share;
            expected[v] = rest + (surely ? -d : lost);
        }
        if (to.entropy) put(kEntropy, [&](int64_t v) { return entropy[v]; });
        if (to.expected_entropy) put(kExpectedEntropy, [&](int64_t v) { return expected[v]; });
        if (to.bald) put(kBald, [&](int64_t v) { return entropy[v] - expected[v]; });
        const auto largest = [&](int64_t v) { return load<f32v>(changes.first + v * W); };
        if (to.least_confidence)
            put(kLeastConfidence, [&](int64_t v) {
                if constexpr (!softmax) return largest(v);
                const f32v a = others(v), b = best - largest(v);
                return a < b ? a : b;
            });
        if (to.margin)
            put(kMargin, [&](int64_t v) {
                if constexpr (!softmax) return 2.0f * largest(v);
                const f32v changed = best - others(v), next = load<f32v>(changes.second + v * W);
                const f32v overtaken = (best - second) - (largest(v) - max(changed, next));
                return changed >= largest(v) ? others(v) + (largest(v) - second) : overtaken;
            });
    }
    if (to.variation_ratio && softmax)
        put(kVariationRatio, [&](int64_t v) {
            f32v out{};
            for (int l = 0; l < W; l++) {
                const int64_t group = sums.items ? v : v * W + l, lane = sums.items ? l : 0, step = sums.items ? W : 1;
                if (group >= g.count) continue;
                int32_t votes = 0;
                for (int64_t c = 0; c < sums.C; c++) votes = most(votes, sums.vote[c * step + lane] - g.vote[group * g.stride + c * step + lane]);
                out[l] = (float)((double)r.most_votes[lane] / T - (double)votes / (T - (double)g.m[group]));
            }
            return out;
        });
    else if (to.variation_ratio)
        put(kVariationRatio, [&](int64_t v) {
            return over_classes(sums, v, [&](int64_t group, int64_t at) {
                const double whole = sums.vote[at], left = whole - g.vote[group * g.stride + at], passes = T - (double)g.m[group];
                return least(left, passes - left) / passes - least(whole, T - whole) / T;
            });
        });
    if (to.mean_std)
        put(kMeanStd, [&](int64_t v) {
            const auto deviation = [](double p, double p2) { return __builtin_sqrt(most(0.0, p2 - p * p)); };
            const f32v sum = over_classes(sums, v, [&](int64_t group, int64_t at) {
                const int64_t i = group * g.stride + at;
                const double passes = T - (double)g.m[group];
                return deviation((sums.p[at] - g.wide[i]) / passes, (sums.p2[at] - g.wide2[i]) / passes) - deviation(sums.p[at] / T, sums.p2[at] / T);
            });
            return sum / (float)sums.C;
        });
}

// Writes scores, prediction and errors of the items first..first + n, once all T passes have been added.
template <Likelihood L> static MC_NOINLINE void finish(Sums& sums, const Scores& to, int64_t first, int64_t n, double T) {
    Results r;
    finish_scores<L>(sums, to, first, n, T, r);
    if (sums.groups.count) finish_errors<L>(sums, to, first, n, T, r);
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
