// Running sums over passes of p, H[p], p^2 and votes, for W items (lanes are items, C <= 64) or one item (lanes are classes).
//
// Precision: sums over passes are float32 for at most 32 passes, then float64; sums over classes are float32 in lanes
// for at most 1024 classes, then float64. p^2 is summed in float64, as a standard deviation subtracts two such sums.
//
// softmax: let q be the sum of p over all classes but the maximum. In a confident pass s = 1 + q / (1 - q), and a float32 s has
// lost digits of q. So H = (log s - q) - w / s + q: the first term has slope 0 at s = 1, and the sum of the last term over the
// passes follows from the sums of p, which have all digits of q. This costs nothing per class; a separate sum over the other
// classes took 17 to 45 % of the time.
#pragma once

#include "exp.h"
#include "groups.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int64_t kLanesAreItems = 64;  // up to this many classes
constexpr int64_t kFlush = 32;          // passes
constexpr int kTogether = 4;            // passes whose p is added together: sums are read and written a quarter as often
constexpr int64_t kLong = 2048;         // classes from which kTogether is halved, so that its rows stay in L2

struct Sums {  // arrays hold `steps` vectors
    int64_t C, steps, pending;
    bool items, squares, votes, begun;  // items: lanes are items; begun: p is not empty
    double *p, *p2;      // over all passes up to the last flush (p2: up to now)
    float *rows, *part;  // passes being added, `row_stride` apart; the sum of p over the passes since the last flush
    int64_t together, row_stride;
    int32_t* vote;
    int32_t* turned;  // sigmoid: the sign bit if pass 0 has the label, and 1 - p is summed in place of p; else 0
    bool aligned;     // whether `turned` is set
    float *s, *w;  // normalizers of the passes since the last flush: H = log s - w / s. Vectors over items, or scalars
    double h[W], q[W];  // sums of H - q and of q = 1 - 1 / s
    bool bad[W];
    PassGroups groups;       // the same sums for each group of passes, if errors are asked for
    int64_t added, flushed;  // passes in p; passes in h
    void* memory;

    // T: the number of passes if groups are wanted, else 0; want_p: whether the groups need sums of p.
    MC_INLINE bool allocate(int64_t classes, bool want_squares, bool want_votes, bool labels, int64_t T = 0, bool want_p = false) {
        C = classes, items = C <= kLanesAreItems, squares = want_squares, votes = want_votes;
        steps = items ? C : (C + W - 1) / W, together = C < kLong ? kTogether : kTogether / 2;
        const size_t n = (size_t)(steps * W), line = 64;
        // A few cache lines of padding: at a distance of a multiple of 4096 bytes, stores to a row delay loads from the others.
        row_stride = (int64_t)((n + 15) / 16 * 16 + 80);
        size_t grouped = 0;
        groups.count = 0, groups.p = nullptr, groups.wide = nullptr, groups.vote = nullptr;
        const auto lay_groups = [&](auto&& take) { groups.lay_out(T, (int64_t)n, row_stride, items, want_p, squares, votes, take); };
        if (T) lay_groups([&](size_t bytes) { return grouped += bytes + line, (char*)nullptr; });
        memory = __builtin_malloc(8 * n + (squares ? 8 * n : 0) + 4 * (size_t)(together * row_stride) + 4 * n + (votes ? 4 * n : 0) + (labels ? 4 * n : 0) +
                                  8 * kFlush * W + 9 * line + grouped);
        if (!memory) return false;
        char* at = (char*)memory;
        const auto take = [&](size_t bytes) {
            char* const start = (char*)(((uintptr_t)at + line - 1) / line * line);
            at = start + bytes;
            return start;
        };
        p = (double*)take(8 * n), p2 = squares ? (double*)take(8 * n) : nullptr;
        rows = (float*)take(4 * (size_t)(together * row_stride)), part = (float*)take(4 * n);
        vote = votes ? (int32_t*)take(4 * n) : nullptr;
        turned = labels ? (int32_t*)take(4 * n) : nullptr;
        s = (float*)take(4 * kFlush * W), w = (float*)take(4 * kFlush * W);
        __builtin_memset(rows, 0, 4 * (size_t)(together * row_stride));  // values beyond C stay 0
        if (T) lay_groups(take), groups.begin(T);
        return true;
    }
    MC_INLINE void clear() {
        const size_t n = (size_t)(steps * W);
        __builtin_memset(part, 0, 4 * n);
        if (squares) __builtin_memset(p, 0, 8 * n), __builtin_memset(p2, 0, 8 * n);
        if (votes) __builtin_memset(vote, 0, 4 * n);
        for (int l = 0; l < W; l++) h[l] = q[l] = 0, bad[l] = false;
        pending = added = flushed = 0, begun = squares, aligned = false;
        if (groups.count) groups.clear();
    }
    MC_INLINE float* row(int r) const { return rows + r * row_stride; }

    // The logits of pass 0 decide whether p or 1 - p is summed, so that small values are: a sum of 1 - 1e-6 loses digits of 1e-6.
    MC_INLINE void turn(const float* row) {
        for (int64_t i = 0; i < steps * W; i += W) store(turned + i, load<f32v>(row + i) >= 0.0f ? all(INT32_MIN) : i32v{});
        aligned = true;
    }
    // Sum of H over the passes of item l, after flush_entropies(). others (softmax): sum of p over all classes but the largest.
    // If the same class is the maximum of each pass, that is the sum of q, accurate relative to itself; else it is larger.
    MC_INLINE double entropy_of_passes(int l, double others, double passes) const {
        return h[l] + (one_winner(l, others, passes) ? others : q[l]);
    }
    MC_INLINE bool one_winner(int l, double others, double passes) const {
        const double noise = 6e-8 * (double)(4 + least<int64_t>(steps, 1024 / W)) * passes, apart = others - q[l];  // rounding error of s
        return others < passes / 16 && -noise < apart && apart < noise;
    }

    // Adds p = row(r) * scale[r] of R passes to the sums.
    template <int R> MC_INLINE void add(const f32v (&scale)[R]) {
        if (squares) {
            for (int r = 0; r < R; r++) {
                add_squares(row(r), scale[r], p, p2);
                const int64_t to = groups.wide ? groups.of(added + r) * groups.stride : 0;
                if (groups.wide) add_squares(row(r), scale[r], groups.wide + to, groups.wide2 + to);
            }
        } else if (!groups.p) {
            add_p<R, 0, false>(scale);
        } else if (groups.size >= R) {
            if (added & (groups.size - 1)) add_p<R, R, false>(scale);
            else add_p<R, R, true>(scale);
        } else if (groups.size == 2) {
            add_p<R, 2, true>(scale);
        } else {
            add_p<R, 1, true>(scale);
        }
        added += R;
    }
    MC_INLINE void add_squares(const float* __restrict from, f32v scale, double* __restrict to, double* __restrict to2) {
        for (int64_t i = 0; i < steps * W; i += W) {
            const f32v x = load<f32v>(from + i) * scale;
            for (int l = 0; l < W; l++) to[i + l] += (double)x[l], to2[i + l] += (double)x[l] * (double)x[l];
        }
    }
    // S passes at a time also go to their groups (0: no groups), whose first passes they are if Fresh. The sums over all passes have
    // the same bits for each S, so the products are fused explicitly.
    template <int R, int S, bool Fresh> MC_INLINE void add_p(const f32v (&scale)[R]) {
        constexpr int some = S > R || S == 0 ? R : S;
        float* const to = part;
        float* const group = S ? groups.p_of(added) : nullptr;
        const int64_t stride = groups.stride;
        const float* from[R];
        for (int r = 0; r < R; r++) from[r] = row(r);
        const auto sum_of = [&](int first, int64_t i) {
            f32v sum = load<f32v>(from[first] + i) * scale[first];
            for (int r = first + 1; r < first + some; r++) sum = multiply_add(load<f32v>(from[r] + i), scale[r], sum);
            return sum;
        };
        const auto at = [&](int64_t i) {
            f32v sum = sum_of(0, i);  // the passes are summed first, so the large sum is rounded less often
            if constexpr (S > 0) {
                store(group + i, Fresh ? sum : load<f32v>(group + i) + sum);
                for (int r = some; r < R; r += some) store(group + r / some * stride + i, sum_of(r, i));
            }
            for (int r = some; r < R; r++) sum = multiply_add(load<f32v>(from[r] + i), scale[r], sum);
            return R == 1 ? multiply_add(load<f32v>(from[0] + i), scale[0], load<f32v>(to + i)) : load<f32v>(to + i) + sum;
        };
        const int64_t n = steps * W;
        int64_t i = 0;
        for (; i + 2 * W <= n; i += 2 * W) {  // two vectors at once take 1.2 cycles per vector and row, one at a time 2.2
            const f32v a = at(i), b = at(i + W);
            store(to + i, a), store(to + i + W, b);
        }
        if (i < n) store(to + i, at(i));
    }
    MC_INLINE void end_pass(f32v s_items, f32v w_items) {
        store(s + pending * W, s_items), store(w + pending * W, w_items);
        if (++pending == kFlush) flush();
    }
    MC_INLINE void end_pass(float s_item, float w_item) {
        s[pending] = s_item, w[pending] = w_item;
        if (++pending == kFlush) flush();
    }
    MC_INLINE void flush() { flush_entropies(), flush_p(); }
    MC_NOINLINE void flush_p() {
        if (squares) return;
        float* __restrict from = part;
        double* __restrict to = p;
        if (begun)
            for (int64_t i = 0; i < steps * W; i++) to[i] += (double)from[i], from[i] = 0;
        else
            for (int64_t i = 0; i < steps * W; i++) to[i] = (double)from[i], from[i] = 0;
        begun = true;
    }
    MC_NOINLINE void flush_entropies() {
        const int64_t n = items ? pending * W : (pending + W - 1) / W * W;
        for (int64_t i = pending; i < n && !items; i++) s[i] = 1, w[i] = 0;
        // The integer part k of log2 s is summed apart from the rest, so that no float32 near log C is rounded.
        f32v k{}, rest{}, others{}, health{};
        for (int64_t i = 0; i < n; i += W) {
            const f32v total = load<f32v>(s + i);
            const Log l = log_parts(total);
            k += l.k;
            // Fused explicitly: the compiler fused less where a group needs q as well, and the scores had other bits.
            const f32v share = 1.0f / total, excess = total - 1.0f;
            const f32v h_items = multiply_add(-load<f32v>(w + i), share, multiply_add(-excess, share, l.log_m));
            rest += h_items;
            others = multiply_add(excess, share, others);
            health += total;
            if (groups.count) add_to_groups(i, l.k * 0.693147180559945309f + h_items, excess * share);
        }
        for (int l = 0; l < W; l++) {
            h[items ? l : 0] += (double)k[l] * 0.693147180559945309 + (double)rest[l];
            q[items ? l : 0] += (double)others[l];
            bad[items ? l : 0] |= health[l] != health[l];
        }
        flushed += pending, pending = 0;
    }
    MC_INLINE void add_to_groups(int64_t i, f32v h_items, f32v q_items) {
        if (items) {
            const int64_t at = groups.of(flushed + i / W) * W;
            store(groups.h + at, load<f32v>(groups.h + at) + h_items), store(groups.q + at, load<f32v>(groups.q + at) + q_items);
            return;
        }
        for (int64_t l = 0; l < W && i + l < pending; l++) {
            const int64_t at = groups.of(flushed + i + l);
            groups.h[at] += h_items[l], groups.q[at] += q_items[l];
        }
    }
};

}  // namespace MCSCORE_ISA
}  // namespace mcscore
