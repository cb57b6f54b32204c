// (T, B, C) logits -> acquisition scores (B,), each logit read from main memory once.
//
//   p_t = link(x_t),  sums over t of p, H[p_t], p^2 and votes  ->  scores;   nothing of size T x C is ever kept.
//   softmax:  m = max x, e = exp(x - m), s = sum e, w = sum e (x - m):  p = e / s,  H = log s - w / s
//   sigmoid:  a = |x|, e = exp(-a):  p = 1 / (1 + e) or e / (1 + e),  H = log(1 + e) + a e / (1 + e), summed over labels
//
// Two layouts share the arithmetic. C <= 64: lanes are items, W rows are transposed on the way in, so that C = 10 wastes
// no lane and row sums need no shuffles. C > 64: lanes are classes. Scratch then holds ceil(C / W) vectors of one item.
//
// Precision: sums over passes are float32 for at most 32 passes, then float64; sums over classes are float32 in lanes
// for at most 1024 classes, then float64. p^2 goes to float64 at once, since a standard deviation subtracts two such sums.
#pragma once

#include "exp.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int64_t kLanesAreItems = 64;  // up to this many classes
constexpr int64_t kFlush = 32;          // passes
constexpr int64_t kTile = 1024;         // classes: 4 kB of logits, which stay in L1 from their maximum to their exp

template <class T> MC_INLINE T least(T a, T b) { return a < b ? a : b; }
template <class T> MC_INLINE T most(T a, T b) { return a > b ? a : b; }

// The running sums of W items (lanes are items) or of one (lanes are classes); arrays hold `steps` vectors.
struct Sums {
    int64_t C, steps, tiles, pending;
    bool items, squares, votes;
    double *p, *p2;   // over all passes up to the last flush (p2: up to now)
    float *row, *part;  // this pass; sum of p over the passes since the last flush
    int32_t* vote;
    float *s, *w;  // normalisers of the passes since the last flush: H = log s - w / s. Vectors over items, or scalars
    float* tile_max;
    double *tile_s, *tile_w;
    double h[W];
    bool bad[W];
    void* memory;

    MC_INLINE bool allocate(int64_t classes, bool want_squares, bool want_votes) {
        C = classes, items = C <= kLanesAreItems, squares = want_squares, votes = want_votes;
        steps = items ? C : (C + W - 1) / W;
        tiles = (C + kTile - 1) / kTile;
        const size_t n = (size_t)(steps * W), k = (size_t)tiles, line = 64;
        memory = __builtin_malloc(28 * n + 8 * kFlush * W + 20 * k + 10 * line);
        if (!memory) return false;
        char* at = (char*)memory;
        const auto take = [&](size_t bytes) {
            char* const start = (char*)(((uintptr_t)at + line - 1) / line * line);
            at = start + bytes;
            return start;
        };
        p = (double*)take(8 * n), p2 = (double*)take(8 * n);
        row = (float*)take(4 * n), part = (float*)take(4 * n), vote = (int32_t*)take(4 * n);
        s = (float*)take(4 * kFlush * W), w = (float*)take(4 * kFlush * W);
        tile_s = (double*)take(8 * k), tile_w = (double*)take(8 * k), tile_max = (float*)take(4 * k);
        return true;
    }
    MC_INLINE void clear() {
        const size_t n = (size_t)(steps * W);
        __builtin_memset(p, 0, 8 * n);
        __builtin_memset(part, 0, 4 * n);
        if (squares) __builtin_memset(p2, 0, 8 * n);
        if (votes) __builtin_memset(vote, 0, 4 * n);
        for (int l = 0; l < W; l++) h[l] = 0, bad[l] = false;
        pending = 0;
    }
    // p_t = row * scale joins the sums, for the vectors from `step` to `end`.
    MC_INLINE void add(int64_t step, int64_t end, f32v scale) {
        const float* __restrict from = row;
        if (squares) {
            double *__restrict to = p, *__restrict to2 = p2;
            for (int64_t i = step * W; i < end * W; i += W) {
                const f32v x = load<f32v>(from + i) * scale;
                for (int l = 0; l < W; l++) to[i + l] += (double)x[l], to2[i + l] += (double)x[l] * (double)x[l];
            }
        } else {
            float* __restrict to = part;
            for (int64_t i = step * W; i < end * W; i += W) store(to + i, load<f32v>(to + i) + load<f32v>(from + i) * scale);
        }
    }
    MC_INLINE void end_pass(f32v s_items, f32v w_items) {
        store(s + pending * W, s_items), store(w + pending * W, w_items);
        if (++pending == kFlush) flush();
    }
    MC_INLINE void end_pass(float s_item, float w_item) {
        s[pending] = s_item, w[pending] = w_item;
        if (++pending == kFlush) flush();
    }
    MC_INLINE void flush() {
        if (!squares) {
            double* __restrict to = p;
            float* __restrict from = part;
            for (int64_t i = 0; i < steps * W; i++) to[i] += (double)from[i], from[i] = 0;
        }
        const int64_t n = items ? pending * W : (pending + W - 1) / W * W;
        for (int64_t i = pending; i < n && !items; i++) s[i] = 1, w[i] = 0;
        // The whole part of log s apart from the rest, so that no float32 near log C is ever rounded.
        f32v k{}, rest{}, health{};
        for (int64_t i = 0; i < n; i += W) {
            const f32v total = load<f32v>(s + i);
            const Log l = log_parts(total);
            k += l.k;
            rest += l.log_m - load<f32v>(w + i) / total;
            health += total;
        }
        for (int l = 0; l < W; l++) {
            h[items ? l : 0] += (double)k[l] * 0.693147180559945309 + (double)rest[l];
            bad[items ? l : 0] |= health[l] != health[l];
        }
        pending = 0;
    }
};

constexpr float kNan = __builtin_nanf(""), kInf = __builtin_inff();

// ---- one pass of W items, lanes are items -------------------------------------------------------------------------

// Rows of C <= 64 values at x[0..W) -> row[c][lane].
template <Type In> MC_INLINE void load_transposed(const typename Element<In>::type* const (&x)[W], int64_t C, float* row) {
    f32v r[W];
    if (C < W) {
        for (int l = 0; l < W; l++) r[l] = load_first<In>(x[l], (int)C);
        transpose(r);
        for (int64_t c = 0; c < C; c++) store(row + c * W, r[c]);
        return;
    }
    for (int64_t c = 0; c < C; c += W) {
        const int64_t at = least(c, C - W);  // the last block overlaps the one before
        for (int l = 0; l < W; l++) r[l] = load_as_float<In>(x[l] + at);
        transpose(r);
        for (int i = 0; i < W; i++) store(row + (at + i) * W, r[i]);
    }
}

MC_INLINE void softmax_items(Sums& sums) {
    float* const row = sums.row;
    const int64_t C = sums.C;
    f32v m = load<f32v>(row);
    for (int64_t c = 1; c < C; c++) m = max(m, load<f32v>(row + c * W));
    if (sums.votes) {
        i32v first = all((int32_t)-1);
        for (int64_t c = C - 1; c >= 0; c--) first = load<f32v>(row + c * W) == m ? all((int32_t)c) : first;
        for (int64_t c = 0; c < C; c++) store(sums.vote + c * W, load<i32v>(sums.vote + c * W) - (first == (int32_t)c));
    }
    f32v s{}, w{};
    for (int64_t c = 0; c < C; c++) {
        f32v z = load<f32v>(row + c * W) - m;  // NaN if m is infinite
        const f32v e = exp_nonpositive(z);
        s += e;
        w += e * z;
        store(row + c * W, e);
    }
    sums.add(0, C, 1.0f / s);
    sums.end_pass(s, w);
}

// The n sigmoids of consecutive vectors in place of their logits; returns the sum of their entropies, NaN for NaN or +inf.
MC_INLINE f32v sigmoid(float* row, int64_t n) {
    f32v h{}, product = all(1.0f), trouble{};
    for (int64_t c = 0; c < n; c++) {
        const f32v x = load<f32v>(row + c * W);
        const auto negative = x < 0.0f;
        trouble = x < kInf ? trouble : all(kNan);
        f32v z = negative ? x : -x;
        const f32v e = exp_nonpositive(z), one = 1.0f + e, larger = 1.0f / one, smaller = e * larger;
        store(row + c * W, negative ? smaller : larger);
        h -= z * smaller;
        product *= one;  // one logarithm serves 16 labels
        if (c % 16 == 15) h += log_positive(product), product = all(1.0f);
    }
    return h + log_positive(product) + trouble;
}

MC_INLINE void vote_labels(Sums& sums) {  // before sigmoid() overwrites the logits
    for (int64_t i = 0; i < sums.steps * W; i += W)
        store(sums.vote + i, load<i32v>(sums.vote + i) - (load<f32v>(sums.row + i) >= 0.0f));
}

MC_INLINE void sigmoid_items(Sums& sums) {
    if (sums.votes) vote_labels(sums);
    const f32v h = sigmoid(sums.row, sums.C), one = 1.0f + 0.0f * h;
    sums.add(0, sums.C, all(1.0f));
    sums.end_pass(one, -h);  // log 1 + h / 1
}

// ---- one pass of one item, lanes are classes ----------------------------------------------------------------------

// n values of x into row as float32, padded with -inf to whole vectors; returns the maximum in every lane.
template <Type In> MC_INLINE f32v load_row(const typename Element<In>::type* x, int64_t n, float* row) {
    f32v m0 = all(-kInf), m1 = m0, m2 = m0, m3 = m0;
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        const f32v a = load_as_float<In>(x + i), b = load_as_float<In>(x + i + W), c = load_as_float<In>(x + i + 2 * W),
                   d = load_as_float<In>(x + i + 3 * W);
        store(row + i, a), store(row + i + W, b), store(row + i + 2 * W, c), store(row + i + 3 * W, d);
        m0 = max(a, m0), m1 = max(b, m1), m2 = max(c, m2), m3 = max(d, m3);
    }
    for (; i + W <= n; i += W) {
        const f32v a = load_as_float<In>(x + i);
        store(row + i, a);
        m0 = max(a, m0);
    }
    if (i < n) {
        const f32v a = lane_numbers() < (int32_t)(n - i) ? load_first<In>(x + i, (int)(n - i)) : all(-kInf);
        store(row + i, a);
        m1 = max(a, m1);
    }
    return max_lanes(max(max(m0, m1), max(m2, m3)));
}

// Position of the first of n values (whole vectors) that equals m.
MC_INLINE int64_t first_equal(const float* row, int64_t n, f32v m) {
    i32v at = lane_numbers() + (int32_t)n, found = at;
    for (int64_t i = n - W; i >= 0; i -= W) {
        at -= W;
        found = load<f32v>(row + i) == m ? at : found;
    }
    int32_t first = found[0];
    for (int l = 1; l < W; l++) first = least(first, found[l]);
    return first;
}

// next: the row of the next pass, wanted in cache by then (rows of one item lie a whole batch apart, which no hardware
// prefetcher follows); null at the end.
template <Type In> MC_INLINE void softmax_classes(Sums& sums, const typename Element<In>::type* x, const typename Element<In>::type* next) {
    float top = -kInf;
    int64_t winner = -1;
    for (int64_t k = 0; k < sums.tiles; k++) {
        const int64_t begin = k * kTile, n = least(sums.C - begin, kTile), padded = (n + W - 1) / W * W;
        float* const row = sums.row + begin;
        const f32v m = load_row<In>(x + begin, n, row);
        if (m[0] > top) {
            top = m[0];
            if (sums.votes) winner = begin + first_equal(row, padded, m);
        }
        // A tile of nothing but -inf keeps its zeros if the reference is any finite number.
        const f32v reference = m[0] == -kInf ? all(0.0f) : m;
        f32v s{}, w{};
        for (int64_t i = 0; i < padded; i += W) {
            if (next) __builtin_prefetch(next + begin + i);
            f32v z = load<f32v>(row + i) - reference;
            const f32v e = exp_nonpositive(z);
            s += e;
            w += e * z;
            store(row + i, e);
        }
        sums.tile_max[k] = reference[0];
        sums.tile_s[k] = (double)sum_lanes(s)[0];
        sums.tile_w[k] = (double)sum_lanes(w)[0];
    }
    // Merge of the tiles: with f = exp(m_k - m), s = sum f s_k and w = sum f (w_k + (m_k - m) s_k).
    double s = 0, w = 0;
    for (int64_t k = 0; k < sums.tiles; k++) {
        const double shift = sums.tile_s[k] == 0 ? 0 : (double)sums.tile_max[k] - (double)top, f = shift == 0 ? 1 : __builtin_exp(shift);
        s += f * sums.tile_s[k];
        w += f * (sums.tile_w[k] + shift * sums.tile_s[k]);
        sums.tile_s[k] = f;
    }
    if (sums.votes && winner >= 0) sums.vote[winner]++;
    for (int64_t k = 0; k < sums.tiles; k++)
        sums.add(k * (kTile / W), least((k + 1) * (kTile / W), sums.steps), all((float)(sums.tile_s[k] / s)));
    sums.end_pass(s > 0 ? (float)s : kNan, (float)w);  // s is NaN, or 0 where every class was at -inf
}

template <Type In> MC_INLINE void sigmoid_classes(Sums& sums, const typename Element<In>::type* x, const typename Element<In>::type* next) {
    load_row<In>(x, sums.C, sums.row);
    if (next)
        for (int64_t c = 0; c < least(sums.C, kTile); c += 16) __builtin_prefetch(next + c);
    if (sums.votes) vote_labels(sums);
    double h = 0;
    constexpr int64_t run = 16;  // vectors: entropies add up over labels, and float32 sums near 100 would lose digits
    for (int64_t i = 0; i < sums.steps; i += run) h += (double)sum_lanes(sigmoid(sums.row + i * W, least(run, sums.steps - i)))[0];
    sums.add(0, sums.steps, all(1.0f));
    sums.h[0] += h;
    sums.end_pass(h == h ? 1.0f : kNan, 0.0f);
}

// The passes of the items first..first + n (n <= W; 1 if lanes are classes) join the sums.
template <Type In, Link L> static MC_NOINLINE void add_passes(const Logits& x, int64_t first, int64_t n, Sums& sums) {
    typedef typename Element<In>::type E;
    constexpr int64_t ahead = 4, line = 64 / (int64_t)sizeof(E);  // passes of W short rows; values
    for (int64_t t = 0; t < x.T; t++) {
        const E* const pass = (const E*)x.data + t * x.stride_t + first * x.stride_b;
        if (sums.items) {
            const E* rows[W];
            for (int l = 0; l < W; l++) rows[l] = pass + least<int64_t>(l, n - 1) * x.stride_b;
            if (t + ahead < x.T)
                for (int l = 0; l < W; l++)
                    for (int64_t c = 0; c < x.C; c += line) __builtin_prefetch(rows[l] + ahead * x.stride_t + c);
            load_transposed<In>(rows, x.C, sums.row);
            if constexpr (L == Link::softmax) softmax_items(sums);
            else sigmoid_items(sums);
        } else {
            if constexpr (L == Link::softmax) softmax_classes<In>(sums, pass, t + 1 < x.T ? pass + x.stride_t : nullptr);
            else sigmoid_classes<In>(sums, pass, t + 1 < x.T ? pass + x.stride_t : nullptr);
        }
    }
}

// ---- from sums to scores ------------------------------------------------------------------------------------------

struct Result {  // of one lane
    double entropy, deviation, doubt, minority;  // doubt: sum of min(p, 1 - p); minority: the same of the votes (sigmoid)
    float best, second;
    int32_t most_votes, best_class;
};

template <Link L> static MC_NOINLINE void reduce(Sums& sums, double T, Result (&out)[W]) {
    const double share = 1 / T;
    float* const mean = sums.row;
    float* const rest = sums.part;  // 1 - mean
    for (int64_t i = 0; i < sums.steps * W; i++) mean[i] = (float)(sums.p[i] * share);
    if constexpr (L == Link::sigmoid)
        for (int64_t i = 0; i < sums.steps * W; i++) rest[i] = (float)(1 - sums.p[i] * share);
    for (int l = 0; l < W; l++) out[l] = {};
    f32v best = all(-1.0f), second = all(-1.0f);
    i32v best_class{}, most_votes{}, index = sums.items ? i32v{} : lane_numbers();
    const int stride = sums.items ? 1 : W;
    constexpr int64_t run = 8;  // vectors per float32 sum
    for (int64_t begin = 0; begin < sums.steps; begin += run) {
        f32v entropy{}, doubt{};
        i32v minority{};
        for (int64_t i = begin; i < least(begin + run, sums.steps); i++, index += stride) {
            const f32v p = load<f32v>(mean + i * W);
            entropy -= x_log_x(p);
            if constexpr (L == Link::sigmoid) {
                const f32v q = load<f32v>(rest + i * W);
                entropy -= x_log_x(q);
                doubt += p < q ? p : q;
            }
            const auto wins = p > best;
            second = wins ? best : max(p, second);
            best_class = wins ? index : best_class;
            best = wins ? p : best;
            if (sums.votes) {
                const i32v v = load<i32v>(sums.vote + i * W), other = (int32_t)T - v;
                most_votes = v > most_votes ? v : most_votes;
                minority += v < other ? v : other;
            }
        }
        for (int l = 0; l < W; l++) {
            out[l].entropy += (double)entropy[l];
            out[l].doubt += (double)doubt[l];
            out[l].minority += (double)minority[l];
        }
    }
    if (sums.squares) {
        for (int64_t i = 0; i < sums.steps; i++)
            for (int l = 0; l < W; l++) {
                const double m = sums.p[i * W + l] * share, v = sums.p2[i * W + l] * share - m * m;
                out[l].deviation += __builtin_sqrt(v > 0 ? v : 0);
            }
    }
    for (int l = 0; l < W; l++) out[l].best = best[l], out[l].second = second[l], out[l].best_class = best_class[l], out[l].most_votes = most_votes[l];
    if (sums.items) return;
    Result& all_lanes = out[0];
    for (int l = 1; l < W; l++) {
        const Result& r = out[l];
        all_lanes.entropy += r.entropy, all_lanes.deviation += r.deviation, all_lanes.doubt += r.doubt, all_lanes.minority += r.minority;
        all_lanes.most_votes = most(all_lanes.most_votes, r.most_votes);
        all_lanes.second = most(most(all_lanes.second, r.second), least(all_lanes.best, r.best));
        if (r.best > all_lanes.best || (r.best == all_lanes.best && r.best_class < all_lanes.best_class))
            all_lanes.best = r.best, all_lanes.best_class = r.best_class;
    }
}

template <Link L> MC_INLINE void write(const Scores& to, int64_t b, const Result& r, double expected_entropy, bool bad, double T, int64_t C) {
    const double nan = __builtin_nan("");
    if (to.entropy) to.entropy[b] = (float)(bad ? nan : r.entropy);
    if (to.expected_entropy) to.expected_entropy[b] = (float)(bad ? nan : expected_entropy);
    if (to.bald) to.bald[b] = (float)(bad ? nan : most(r.entropy - expected_entropy, 0.0));
    const double doubt = L == Link::sigmoid ? r.doubt : 1.0 - (double)r.best;
    const double gap = L == Link::sigmoid ? 2.0 * r.doubt : 1.0 - ((double)r.best - (double)r.second);
    const double dissent = L == Link::sigmoid ? r.minority / T : 1.0 - (double)r.most_votes / T;
    if (to.least_confidence) to.least_confidence[b] = (float)(bad ? nan : doubt);
    if (to.margin) to.margin[b] = (float)(bad ? nan : gap);
    if (to.variation_ratio) to.variation_ratio[b] = (float)(bad ? nan : dissent);
    if (to.mean_std) to.mean_std[b] = (float)(bad ? nan : r.deviation / (double)C);
    if (to.prediction) to.prediction[b] = bad ? -1 : (L == Link::sigmoid && C == 1) ? (int32_t)(r.best >= 0.5f) : r.best_class;
}

// Scores of the items first..first + n, all of whose T passes have been added.
template <Link L> MC_INLINE void finish_scores(Sums& sums, const Scores& to, int64_t first, int64_t n, double T) {
    Result results[W];
    sums.flush();
    reduce<L>(sums, T, results);
    for (int64_t l = 0; l < n; l++) write<L>(to, first + l, results[l], sums.h[l] / T, sums.bad[l], T, sums.C);
}

template <Type In, Link L> static bool score_of(const Logits& x, const Scores& to, Part part) {
    Sums sums;
    if (!sums.allocate(x.C, to.mean_std != nullptr, to.variation_ratio != nullptr)) return false;
    const int64_t group = sums.items ? W : 1;
    for (int64_t b = part.b0; b < part.b1; b += group) {
        const int64_t n = least(group, part.b1 - b);
        sums.clear();
        add_passes<In, L>(x, b, n, sums);
        finish_scores<L>(sums, to, b, n, (double)x.T);
    }
    __builtin_free(sums.memory);
    return true;
}

template <Type In, Link L> static bool accumulate_of(const Logits& x, const State& to, Part part) {
    Sums sums;
    if (!sums.allocate(x.C, to.p2_BC != nullptr, to.votes_BC != nullptr)) return false;
    const int64_t group = sums.items ? W : 1;
    for (int64_t b = part.b0; b < part.b1; b += group) {
        const int64_t n = least(group, part.b1 - b);
        sums.clear();
        add_passes<In, L>(x, b, n, sums);
        sums.flush();
        for (int64_t l = 0; l < n; l++) {
            const int64_t first = sums.items ? l : 0, stride = sums.items ? W : 1, at = (b + l) * x.C;
            if (to.p_BC)
                for (int64_t c = 0; c < x.C; c++) to.p_BC[at + c] += sums.p[first + c * stride];
            if (to.p2_BC)
                for (int64_t c = 0; c < x.C; c++) to.p2_BC[at + c] += sums.p2[first + c * stride];
            if (to.votes_BC)
                for (int64_t c = 0; c < x.C; c++) to.votes_BC[at + c] += sums.vote[first + c * stride];
            if (to.h_B) to.h_B[b + l] += sums.h[l];
            if (to.bad_B) to.bad_B[b + l] |= sums.bad[l];
        }
    }
    __builtin_free(sums.memory);
    return true;
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
