// All kernels for one instruction set. setup.py compiles this file once per set, with -DMCSCORE_ISA=<name> and its flags.
#if defined(__GNUC__) && !defined(__clang__)
// GCC turned loops that zero small arrays of vectors into `rep stos`, which took 7 % of the time at C = 10.
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif

#include "draws.h"
#include "dropout.h"
#include "linear.h"
#include "head.h"
#include "joint.h"
#include "score.h"
#include "topk.h"

namespace mcscore {
namespace MCSCORE_ISA {

template <Type In> static bool score_rows_of(const Logits& x, Likelihood likelihood, const Scores& to, Part part) {
    return likelihood == Likelihood::categorical ? score_of<In, Likelihood::categorical>(x, to, part) : score_of<In, Likelihood::bernoulli>(x, to, part);
}
static bool score(const Logits& x, Likelihood likelihood, const Scores& to, Part part) {
    if (x.type == Type::f32) return score_rows_of<Type::f32>(x, likelihood, to, part);
    if (x.type == Type::f16) return score_rows_of<Type::f16>(x, likelihood, to, part);
    return score_rows_of<Type::bf16>(x, likelihood, to, part);
}

template <Type In> static bool accumulate_rows_of(const Logits& x, Likelihood likelihood, const State& to, Part part) {
    return likelihood == Likelihood::categorical ? accumulate_of<In, Likelihood::categorical>(x, to, part) : accumulate_of<In, Likelihood::bernoulli>(x, to, part);
}
static bool accumulate(const Logits& x, Likelihood likelihood, const State& to, Part part) {
    if (x.type == Type::f32) return accumulate_rows_of<Type::f32>(x, likelihood, to, part);
    if (x.type == Type::f16) return accumulate_rows_of<Type::f16>(x, likelihood, to, part);
    return accumulate_rows_of<Type::bf16>(x, likelihood, to, part);
}

static void exp(const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; i += W) {
        const int some = (int)least<int64_t>(n - i, W);
        f32v z = load_first<Type::f32>(x + i, some);
        store_first<Type::f32>(y + i, some, exp_nonpositive(z));
    }
}

#define MC_TEXT_(x) #x
#define MC_TEXT(x) MC_TEXT_(x)
extern const Kernels kernels = {MC_TEXT(MCSCORE_ISA), W, score, accumulate, keep_mask, dropout, draw, dropout_linear, dropout_head, panel_classes, conditional_entropy, filter_above, exp, philox};

}  // namespace MCSCORE_ISA
}  // namespace mcscore
