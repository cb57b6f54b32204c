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
    int64_t C, steps, tiles;
    bool items, squares, votes;
    double *p, *p2;         // over all passes so far
    float *row, *part;      // this pass; sum of p over the last passes, not yet in p
    float *tile_max, *tile_factor;
    double *tile_s, *tile_w;
    int32_t* vote;
    double h[W];
    bool bad[W];
    void* memory;

    MC_INLINE bool allocate(int64_t classes, bool want_squares, bool want_votes) {
        C = classes, items = C <= kLanesAreItems, squares = want_squares, votes = want_votes;
        steps = items ? C : (C + W - 1) / W;
        tiles = (C + kTile - 1) / kTile;
        const size_t n = (size_t)(steps * W), line = 64;
        memory = __builtin_malloc(n * (8 + 8 + 4 + 4 + 4) + (size_t)tiles * 24 + 8 * line);
        if (!memory) return false;
        char* at = (char*)(((uintptr_t)memory + line - 1) / line * line);
        p = (double*)at, at += 8 * n;
        p2 = (double*)at, at += 8 * n;
        row = (float*)at, at += 4 * n;
        part = (float*)at, at += 4 * n;
        vote = (int32_t*)at, at += 4 * n;
        tile_s = (double*)at, at += 8 * (size_t)tiles;
        tile_w = (double*)at, at += 8 * (size_t)tiles;
        tile_max = (float*)at, at += 4 * (size_t)tiles;
        tile_factor = (float*)at;
        return true;
    }
    MC_INLINE void clear() {
        const size_t n = (size_t)(steps * W);
        __builtin_memset(p, 0, 8 * n);
        __builtin_memset(part, 0, 4 * n);
        if (squares) __builtin_memset(p2, 0, 8 * n);
        if (votes) __builtin_memset(vote, 0, 4 * n);
        for (int l = 0; l < W; l++) h[l] = 0, bad[l] = false;
    }
    // p_t = row * scale joins the sums, for the vectors from `step` to `end`.
    MC_INLINE void add(int64_t step, int64_t end, f32v scale) {
        if (squares) {
            for (int64_t i = step * W; i < end * W; i += W) store(row + i, load<f32v>(row + i) * scale);
            for (int64_t i = step * W; i < end * W; i++) {
                const double x = row[i];
                p[i] += x;
                p2[i] += x * x;
            }
        } else {
            for (int64_t i = step * W; i < end * W; i += W) store(part + i, load<f32v>(part + i) + load<f32v>(row + i) * scale);
        }
    }
    MC_INLINE void flush() {
        if (squares) return;
        for (int64_t i = 0; i < steps * W; i++) p[i] += (double)part[i], part[i] = 0;
    }
};

// ---- one pass of W items, lanes are items -------------------------------------------------------------------------

// Rows of C <= 64 values at x[0..W) -> row[c][lane].
template <Type In> MC_INLINE void load_transposed(const typename Element<In>::type* const (&x)[W], int64_t C, float* row) {
    f32v r[W];
    if (C < W) {
        for (int l = 0; l < W; l++) r[l] = load_first<In>(x[l], (int)C, 0);
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

MC_INLINE void note(Sums& sums, f32v h, f32v finite) {  // finite: NaN where the row was not
    for (int l = 0; l < W; l++) {
        sums.h[l] += (double)h[l];
        sums.bad[l] |= finite[l] != finite[l];
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
        f32v z = load<f32v>(row + c * W) - m;
        const f32v e = exp_nonpositive(z);
        s += e;
        w += e * z;
        store(row + c * W, e);
    }
    const f32v scale = 1.0f / s;
    note(sums, log_positive(s) - w * scale, s);
    sums.add(0, C, scale);
}

// One vector of sigmoid outputs in place of its logits; returns the entropies. trouble becomes NaN for NaN and +inf.
MC_INLINE f32v sigmoid(float* row, f32v& trouble) {
    const f32v x = load<f32v>(row);
    f32v z = x < 0.0f ? x : -x;
    trouble = x < __builtin_inff() ? trouble : all(__builtin_nanf(""));
    const f32v e = exp_nonpositive(z), one = 1.0f + e, larger = 1.0f / one, smaller = e * larger;
    store(row, x < 0.0f ? smaller : larger);
    return log_positive(one) - z * smaller;
}

MC_INLINE void vote_labels(Sums& sums) {  // before sigmoid() overwrites the logits
    for (int64_t i = 0; i < sums.steps * W; i += W)
        store(sums.vote + i, load<i32v>(sums.vote + i) - (load<f32v>(sums.row + i) >= 0.0f));
}

MC_INLINE void sigmoid_items(Sums& sums) {
    if (sums.votes) vote_labels(sums);
    f32v h{}, trouble{};
    for (int64_t c = 0; c < sums.C; c++) h += sigmoid(sums.row + c * W, trouble);
    note(sums, h, trouble);
    sums.add(0, sums.C, all(1.0f));
}

// ---- one pass of one item, lanes are classes ----------------------------------------------------------------------

// Row [begin, end) of x into row as float32, padded with -inf to whole vectors; returns the lane-wise maximum.
template <Type In> MC_INLINE f32v load_row(const typename Element<In>::type* x, int64_t n, float* row) {
    constexpr auto lowest = In == Type::f32 ? 0 : In == Type::f16 ? 0xfc00 : 0xff80;
    f32v m0 = all(-__builtin_inff()), m1 = m0, m2 = m0, m3 = m0;
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
        f32v a;
        if constexpr (In == Type::f32) a = load_first<In>(x + i, (int)(n - i), -__builtin_inff());
        else a = load_first<In>(x + i, (int)(n - i), (uint16_t)lowest);
        store(row + i, a);
        m1 = max(a, m1);
    }
    return max(max(m0, m1), max(m2, m3));
}

template <Type In> MC_INLINE void softmax_classes(Sums& sums, const typename Element<In>::type* x) {
    float top = -__builtin_inff();
    int64_t winner = -1;
    for (int64_t k = 0; k < sums.tiles; k++) {
        const int64_t begin = k * kTile, n = least(sums.C - begin, kTile), padded = (n + W - 1) / W * W;
        float* const row = sums.row + begin;
        const float m = largest(load_row<In>(x + begin, n, row));
        if (m > top) {
            top = m;
            if (sums.votes) {
                for (winner = begin; row[winner - begin] != m;) winner++;
            }
        }
        // A tile of nothing but -inf keeps its zeros if the reference is any finite number.
        const f32v reference = all(m == -__builtin_inff() ? 0.0f : m);
        f32v s0{}, w0{}, s1{}, w1{};
        int64_t i = 0;
        for (; i + 2 * W <= padded; i += 2 * W) {
            f32v z0 = load<f32v>(row + i) - reference, z1 = load<f32v>(row + i + W) - reference;
            const f32v e0 = exp_nonpositive(z0), e1 = exp_nonpositive(z1);
            s0 += e0, s1 += e1;
            w0 += e0 * z0, w1 += e1 * z1;
            store(row + i, e0), store(row + i + W, e1);
        }
        if (i < padded) {
            f32v z = load<f32v>(row + i) - reference;
            const f32v e = exp_nonpositive(z);
            s0 += e, w0 += e * z;
            store(row + i, e);
        }
        sums.tile_max[k] = reference[0];
        sums.tile_s[k] = (double)sum(s0 + s1);
        sums.tile_w[k] = (double)sum(w0 + w1);
    }
    // Merge of the tiles: with f = exp(m_k - m), s = sum f s_k and w = sum f (w_k + (m_k - m) s_k).
    double s = 0, w = 0;
    for (int64_t k = 0; k < sums.tiles; k++) {
        const double shift = sums.tile_s[k] == 0 ? 0 : (double)sums.tile_max[k] - (double)top;
        const double f = shift == 0 ? 1 : __builtin_exp(shift);
        sums.tile_factor[k] = (float)f;
        s += f * sums.tile_s[k];
        w += f * (sums.tile_w[k] + shift * sums.tile_s[k]);
    }
    sums.h[0] += __builtin_log(s) - w / s;
    if (!(s > 0)) sums.bad[0] = true;  // NaN, or every class at -inf
    if (sums.votes && winner >= 0) sums.vote[winner]++;
    for (int64_t k = 0; k < sums.tiles; k++)
        sums.add(k * kTile / W, least((k + 1) * kTile / W, sums.steps), all((float)((double)sums.tile_factor[k] / s)));
}

template <Type In> MC_INLINE void sigmoid_classes(Sums& sums, const typename Element<In>::type* x) {
    load_row<In>(x, sums.C, sums.row);
    if (sums.votes) vote_labels(sums);
    f32v trouble{};
    double total = 0;
    for (int64_t begin = 0; begin < sums.steps * W; begin += kTile) {
        f32v h{};
        for (int64_t i = begin; i < least(begin + kTile, sums.steps * W); i += W) h += sigmoid(sums.row + i, trouble);
        total += (double)sum(h);
    }
    sums.h[0] += total;
    sums.bad[0] |= sum(trouble) != 0.0f;
    sums.add(0, sums.steps, all(1.0f));
}

// All passes of the items first..first + n (n <= W; 1 if lanes are classes) into sums.
template <Type In, Link L> MC_INLINE void run_passes(const Logits& x, int64_t first, int64_t n, Sums& sums) {
    typedef typename Element<In>::type E;
    sums.clear();
    for (int64_t t = 0; t < x.T; t++) {
        const E* const pass = (const E*)x.data + t * x.stride_t;
        if (sums.items) {
            const E* rows[W];
            for (int l = 0; l < W; l++) rows[l] = pass + (first + least<int64_t>(l, n - 1)) * x.stride_b;
            load_transposed<In>(rows, x.C, sums.row);
            if constexpr (L == Link::softmax) softmax_items(sums);
            else sigmoid_items(sums);
        } else {
            if constexpr (L == Link::softmax) softmax_classes<In>(sums, pass + first * x.stride_b);
            else sigmoid_classes<In>(sums, pass + first * x.stride_b);
        }
        if ((t + 1) % kFlush == 0 || t + 1 == x.T) sums.flush();
    }
}

// ---- from sums to scores ------------------------------------------------------------------------------------------

struct Result {  // of one lane
    double entropy, deviation, doubt, minority;  // doubt: sum of min(p, 1 - p); minority: the same of the votes (sigmoid)
    float best, second;
    int32_t most_votes, best_class;
};

template <Link L> MC_INLINE void reduce(Sums& sums, double T, Result (&out)[W]) {
    const double share = 1 / T;
    float* const mean = sums.row;
    float* const rest = sums.part;  // 1 - mean
    for (int64_t i = 0; i < sums.steps * W; i++) mean[i] = (float)(sums.p[i] * share);
    if constexpr (L == Link::sigmoid)
        for (int64_t i = 0; i < sums.steps * W; i++) rest[i] = (float)(1 - sums.p[i] * share);
    for (int l = 0; l < W; l++) out[l] = {};
    f32v best = all(-1.0f), second = all(-1.0f);
    i32v best_class{}, most_votes{}, index{};
    if (!sums.items)
        for (int l = 0; l < W; l++) index[l] = l;
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

template <Type In, Link L> static bool score_of(const Logits& x, const Scores& to, Part part) {
    Sums sums;
    if (!sums.allocate(x.C, to.mean_std != nullptr, to.variation_ratio != nullptr)) return false;
    const int64_t group = sums.items ? W : 1;
    const double T = (double)x.T;
    for (int64_t b = part.b0; b < part.b1; b += group) {
        const int64_t n = least(group, part.b1 - b);
        run_passes<In, L>(x, b, n, sums);
        Result results[W];
        reduce<L>(sums, T, results);
        for (int64_t l = 0; l < n; l++) write<L>(to, b + l, results[l], sums.h[l] / T, sums.bad[l], T, x.C);
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
        run_passes<In, L>(x, b, n, sums);
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
