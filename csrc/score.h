// (T, B, C) logits -> acquisition scores (B,), each logit read from main memory once.
//
//   p_t = likelihood(x_t),  sums over t of p, H[p_t], p^2 and votes  ->  scores;   nothing of size T x C is kept.
//   softmax:  m = max x, e = exp(x - m), s = sum e, w = sum e (x - m):  p = e / s,  H = log s - w / s
//   sigmoid:  a = |x|, e = exp(-a):  p = 1 / (1 + e) or e / (1 + e),  H = log(1 + e) + a e / (1 + e), summed over labels
//
// BALD is the difference of two entropies. Both are small for a confident item, so both must be accurate relative to themselves.
// sums.h has the method for softmax. For sigmoid, the sum is over the probability that a label differs from that of pass 0, and
// 16 labels share one log(1 + u), with u <- u (1 + e) + e.
//
// C <= 64: lanes are items; C > 64: lanes are classes (rows.h). A row is read for its maximum, and from cache for its
// exponentials; then up to four passes are added to the sums together.
#pragma once

#include "errors.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int64_t kRun = W < 8 ? 512 : 1024;  // classes per float32 sum
constexpr int64_t kScratch = 98304;  // logits gathered at a time: 384 kB, which stay in L2

// e = exp(x - m), s += e, w += e (x - m) for some vectors. next: the row that is read next, to be prefetched; or null.
template <Type In>
MC_INLINE void exp_vectors(const typename Element<In>::type* x, const typename Element<In>::type* next, float* e, int64_t vectors, f32v m, f32v& s,
                           f32v& w) {
    f32v s0 = s, w0 = w, s1{}, w1{};  // in registers
    int64_t i = 0;
    constexpr int64_t step = 2 * W, line = 64 / (int64_t)sizeof(*x);
    const auto at = [&](int64_t i, f32v& s, f32v& w) {
        f32v z = load_as_float<In>(x + i * W) - m;  // NaN if m is infinite
        const f32v y = exp_nonpositive(z);
        s += y;
        w += y * z;
        store(e + i * W, y);
    };
    for (; i + 2 <= vectors; i += 2) {
        if (next)
            for (int64_t k = 0; k < step; k += line) __builtin_prefetch(next + i * W + k);
        at(i, s0, w0), at(i + 1, s1, w1);
    }
    if (i < vectors) at(i, s0, w0);
    s = s0 + s1, w = w0 + w1;
}

// Prefetches a row: rows of consecutive passes are a batch apart, which hardware prefetchers do not follow.
template <class E> MC_INLINE void prefetch_row(const E* x, int64_t n) {
    for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(E)) __builtin_prefetch(x + i);
}

// ---- lanes are items: R passes whose rows have been loaded and have these maxima ------------------------------------------------

template <int R> MC_INLINE void softmax_items(Sums& sums, const f32v (&m)[R]) {
    const int64_t C = sums.C;
    f32v s[R], w[R], scale[R];
    for (int r = 0; r < R && sums.votes; r++) {
        const float* const row = sums.row(r);
        i32v first = all((int32_t)-1);
        for (int64_t c = C - 1; c >= 0; c--) first = load<f32v>(row + c * W) == m[r] ? all((int32_t)c) : first;
        int32_t* const group = sums.groups.votes_of(sums.added + r);
        for (int64_t c = 0; c < C; c++) {
            store(sums.vote + c * W, load<i32v>(sums.vote + c * W) - (first == (int32_t)c));
            if (group) store(group + c * W, load<i32v>(group + c * W) - (first == (int32_t)c));
        }
    }
    for (int r = 0; r < R; r++) s[r] = w[r] = f32v{}, exp_vectors<Type::f32>(sums.row(r), nullptr, sums.row(r), C, m[r], s[r], w[r]);
    for (int r = 0; r < R; r++) scale[r] = 1.0f / s[r];
    sums.add<R>(scale);
    for (int r = 0; r < R; r++) sums.end_pass(s[r], w[r]);
}

// Replaces the logits of n consecutive vectors by their sigmoids, turned as Sums::turned says. Returns the sum of their
// entropies, NaN for NaN or +inf.
MC_INLINE f32v sigmoid(float* row, const int32_t* turned, int64_t n) {
    f32v h{}, more{}, top = all(-kInf);
    const i32v sign = all(INT32_MIN);
    for (int64_t c = 0; c < n; c++) {
        const f32v x = load<f32v>(row + c * W);
        const auto negative = bits<f32v>(bits<i32v>(x) ^ load<i32v>(turned + c * W)) < 0.0f;
        top = max(x, top);
        f32v z = bits<f32v>(bits<i32v>(x) | sign);  // -|x|
        const f32v e = exp_nonpositive(z), one = 1.0f + e, larger = 1.0f / one, smaller = e * larger;
        store(row + c * W, negative ? smaller : larger);
        h -= z * smaller;
        more = more * one + e;  // one logarithm serves 16 labels: 1 + more is the product of theirs
        if (c % 16 == 15) h += log1p(more), more = f32v{};
    }
    return h + log1p(more) + (top < kInf ? f32v{} : all(kNan));  // h is NaN already if a label is
}

MC_INLINE void vote_labels(Sums& sums, int r) {  // before sigmoid() overwrites the logits
    int32_t* const group = sums.groups.votes_of(sums.added + r);
    for (int64_t i = 0; i < sums.steps * W; i += W) {
        const i32v votes = load<f32v>(sums.row(r) + i) >= 0.0f;
        store(sums.vote + i, load<i32v>(sums.vote + i) - votes);
        if (group) store(group + i, load<i32v>(group + i) - votes);
    }
}

template <int R> MC_INLINE void sigmoid_items(Sums& sums) {
    f32v scale[R];
    for (int r = 0; r < R; r++) {
        if (sums.votes) vote_labels(sums, r);
        if (!sums.aligned) sums.turn(sums.row(r));
        const f32v h = sigmoid(sums.row(r), sums.turned, sums.C), one = 1.0f + 0.0f * h;
        scale[r] = all(1.0f);
        if (r + 1 == R) sums.add<R>(scale);
        sums.end_pass(one, -h);  // log 1 + h / 1
    }
}

// ---- lanes are classes: R passes of one item ----------------------------------------------------------------------------------

// Each stage runs for all R rows before the next one, as a row of 100 classes takes less time than the latencies of the stages.
template <Type In, int R>
MC_INLINE void softmax_classes(Sums& sums, const typename Element<In>::type* const (&x)[R], const typename Element<In>::type* const (&next)[R]) {
    const int64_t C = sums.C, whole = C / W;
    f32v m[R], s[R], w[R], scale[R];
    double more_s[R], more_w[R];
    for (int r = 0; r < R; r++) {
        m[r] = max_of_row<In>(x[r], C);
        if (!sums.votes) continue;
        const int64_t winner = first_equal<In>(x[r], C, m[r]);
        if (winner < C) sums.vote[winner]++;
        if (winner < C && sums.groups.vote) sums.groups.votes_of(sums.added + r)[winner]++;
    }
    for (int r = 0; r < R; r++) {
        float* const row = sums.row(r);
        more_s[r] = more_w[r] = 0;
        s[r] = w[r] = f32v{};
        if (C % W) {  // the last values, in the upper lanes; the loop overwrites the zeros stored in the lower lanes
            const auto fresh = lane_numbers() >= (int32_t)(W - C % W);
            f32v z = fresh ? load_as_float<In>(x[r] + C - W) - m[r] : all(-kInf);
            s[r] = exp_nonpositive(z);
            w[r] = s[r] * z;
            store(row + C - W, s[r]);
        }
        for (int64_t c = 0; c < whole * W; c += kRun) {
            if (c) {
                more_s[r] += (double)sum_lanes(s[r])[0], more_w[r] += (double)sum_lanes(w[r])[0];
                s[r] = w[r] = f32v{};
            }
            exp_vectors<In>(x[r] + c, next[r] ? next[r] + c : nullptr, row + c, least(kRun / W, whole - c / W), m[r], s[r], w[r]);
        }
    }
    float total_s[R], total_w[R];
    for (int r = 0; r < R; r++) {
        const double all_s = more_s[r] + (double)sum_lanes(s[r])[0], all_w = more_w[r] + (double)sum_lanes(w[r])[0];
        total_s[r] = all_s > 0 ? (float)all_s : kNan, total_w[r] = (float)all_w;  // all_s is 0 or NaN if every class is -inf
        scale[r] = all((float)(1 / all_s));
    }
    sums.add<R>(scale);
    for (int r = 0; r < R; r++) sums.end_pass(total_s[r], total_w[r]);
}

template <Type In, int R> MC_INLINE void sigmoid_classes(Sums& sums, const typename Element<In>::type* const (&x)[R], const typename Element<In>::type* const (&next)[R]) {
    constexpr int64_t run = 16;  // vectors: entropies add up over labels, and float32 sums near 100 would lose digits
    f32v scale[R];
    for (int r = 0; r < R; r++) {
        float* const row = sums.row(r);
        const f32v last = load_as_float<In>(x[r] + sums.C - W);
        if (next[r]) prefetch_row(next[r], sums.C);
        for (int64_t i = 0; i + W <= sums.C; i += W) store(row + i, load_as_float<In>(x[r] + i));
        store(row + sums.C - W, last);
        for (int64_t i = sums.C; i < sums.steps * W; i++) row[i] = -kInf;
        if (sums.votes) vote_labels(sums, r);
        if (!sums.aligned) sums.turn(row);
        double h = 0;
        for (int64_t i = 0; i < sums.steps; i += run) h += (double)sum_lanes(sigmoid(row + i * W, sums.turned + i * W, least(run, sums.steps - i)))[0];
        sums.h[0] += h;
        if (sums.groups.count) sums.groups.h[sums.groups.of(sums.flushed + sums.pending)] += (float)h;
        scale[r] = all(1.0f);
        if (r + 1 == R) sums.add<R>(scale);
        sums.end_pass(h == h ? 1.0f : kNan, 0.0f);
    }
}

// ---- all passes -------------------------------------------------------------------------------------------------------------------

// Address of pass t of the n items from `first` on. A pass beyond the last is one of the next items; null if there is none.
template <class E> MC_INLINE const E* begin_of(const Logits& x, int64_t first, int64_t n, int64_t t) {
    if (t >= x.T) t -= x.T, first += n;
    return t < x.T && first < x.B ? (const E*)x.data + t * x.stride_t + first * x.stride_b : nullptr;
}

template <Type In, Likelihood L, int R>
static MC_NOINLINE void add_together(const Logits& x, int64_t first, int64_t n, int64_t t, Sums& sums) {
    typedef typename Element<In>::type E;
    const E* const pass = (const E*)x.data + t * x.stride_t + first * x.stride_b;
    if (!sums.items) {
        const E *rows[R], *next[R];
        for (int r = 0; r < R; r++) rows[r] = pass + r * x.stride_t, next[r] = begin_of<E>(x, first, n, t + R + r);
        if constexpr (L == Likelihood::categorical) softmax_classes<In, R>(sums, rows, next);
        else sigmoid_classes<In, R>(sums, rows, next);
        return;
    }
    f32v m[R];
    for (int r = 0; r < R; r++) {
        const E* const here = pass + r * x.stride_t;
        const E* const later = begin_of<E>(x, first, n, t + r + 2 * kTogether);  // two steps ahead, as rows are short
        const int64_t some = !later ? 0 : t + r + 2 * kTogether < x.T ? n : least(n, x.B - first - n);
        if (x.stride_c == 1) {
            if (x.stride_b == x.C) prefetch_row(later, some * x.C);
            else
                for (int64_t l = 0; l < some; l++) prefetch_row(later + l * x.stride_b, x.C);
            m[r] = load_items<In>(here, x.stride_b, n, x.C, sums.row(r));
        } else {
            for (int64_t c = 0; later && c < x.C; c++) __builtin_prefetch(later + c * x.stride_c);
            m[r] = load_class_major<In>(here, x.stride_c, n, x.C, sums.row(r));
        }
    }
    if constexpr (L == Likelihood::categorical) softmax_items<R>(sums, m);
    else sigmoid_items<R>(sums);
}

// Adds all passes of the items first..first + n to the sums. n <= W, or 1 if lanes are classes. Classes or items are contiguous.
template <Type In, Likelihood L> MC_INLINE void add_passes(const Logits& x, int64_t first, int64_t n, Sums& sums) {
    int64_t t = 0;
    for (; t + 4 <= x.T && sums.together == 4; t += 4) add_together<In, L, 4>(x, first, n, t, sums);
    for (; t + 2 <= x.T; t += 2) add_together<In, L, 2>(x, first, n, t, sums);
    if (t < x.T) add_together<In, L, 1>(x, first, n, t, sums);
}

// Calls use(first, n, sums) for each group of items of the part, after all its passes have been added to the sums.
template <Type In, Likelihood L, class Use> static bool for_groups(const Logits& x, bool squares, bool votes, int64_t grouped, bool group_p, Part part, Use&& use) {
    Sums sums;
    if (!sums.allocate(x.C, squares, votes, L == Likelihood::bernoulli, grouped, group_p)) return false;
    const int64_t group = sums.items ? W : 1;
    const bool as_it_lies = x.stride_c == 1 || (sums.items && x.stride_b == 1);
    // The number of passes gathered at a time is a multiple of kTogether, so the sums do not depend on the layout of the logits.
    const int64_t some = most<int64_t>(sums.together, least<int64_t>(x.T + 3, kScratch / (group * x.C)) / kTogether * kTogether);
    float* const scratch = as_it_lies ? nullptr : (float*)__builtin_malloc(4 * (size_t)(some * group * x.C));
    if (!as_it_lies && !scratch) {
        __builtin_free(sums.memory);
        return false;
    }
    for (int64_t b = part.b0; b < part.b1; b += group) {
        const int64_t n = least(group, part.b1 - b);
        sums.clear();
        if (as_it_lies) add_passes<In, L>(x, b, n, sums);
        for (int64_t t = 0; t < x.T && !as_it_lies; t += some) {
            const int64_t t1 = least(t + some, x.T);
            gather<In>(x, b, n, t, t1, scratch);
            add_passes<Type::f32, L>({scratch, Type::f32, t1 - t, n, x.C, n * x.C, x.C, 1}, 0, n, sums);
        }
        use(b, n, sums);
    }
    __builtin_free(scratch);
    __builtin_free(sums.memory);
    return true;
}

template <Type In, Likelihood L> static bool score_of(const Logits& x, const Scores& to, Part part) {
    const int64_t grouped = has_errors(to) ? x.T : 0;
    return for_groups<In, L>(x, to.mean_std != nullptr, to.variation_ratio != nullptr, grouped, errors_need_p(to), part,
                             [&](int64_t b, int64_t n, Sums& sums) { finish<L>(sums, to, b, n, (double)x.T); });
}

template <Type In, Likelihood L> static bool accumulate_of(const Logits& x, const State& to, Part part) {
    return for_groups<In, L>(x, to.p2_BC != nullptr, to.votes_BC != nullptr, 0, false, part, [&](int64_t b, int64_t n, Sums& sums) {
        sums.flush();
        for (int64_t l = 0; l < n; l++) {
            const int64_t first = sums.items ? l : 0, stride = sums.items ? W : 1, at = (b + l) * x.C;
            const auto sum_p = [&](int64_t c) { return sums.p[first + c * stride]; };
            const auto turned = [&](int64_t c) { return L == Likelihood::bernoulli && sums.turned[first + c * stride]; };
            if (to.p_BC)
                for (int64_t c = 0; c < x.C; c++) to.p_BC[at + c] += turned(c) ? (double)x.T - sum_p(c) : sum_p(c);
            if (to.p2_BC)
                for (int64_t c = 0; c < x.C; c++)
                    to.p2_BC[at + c] += (turned(c) ? (double)x.T - 2 * sum_p(c) : 0) + sums.p2[first + c * stride];
            if (to.votes_BC)
                for (int64_t c = 0; c < x.C; c++) to.votes_BC[at + c] += sums.vote[first + c * stride];
            if (to.h_B) {
                double others = 0, best = 0;  // sums of p: all but the largest, and the largest
                for (int64_t c = 0; c < x.C && L == Likelihood::categorical; c++) others += least(best, sum_p(c)), best = most(best, sum_p(c));
                to.h_B[b + l] += sums.entropy_of_passes(l, others, (double)x.T);
            }
            if (to.bad_B) to.bad_B[b + l] |= sums.bad[l];
        }
    });
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
