// All kernels for one instruction set. setup.py compiles this file once per set, with -DMCSCORE_ISA=<name> and its flags.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns")  // small arrays of vectors set to 0 became `rep stos`, 7 % of the time at C = 10
#endif

#include "draws.h"
#include "dropout.h"
#include "linear.h"
#include "head.h"
#include "score.h"
#include "topk.h"

namespace mcscore {
namespace MCSCORE_ISA {

template <Type In> static bool score_link(const Logits& x, Link link, const Scores& to, Part part) {
    return link == Link::softmax ? score_of<In, Link::softmax>(x, to, part) : score_of<In, Link::sigmoid>(x, to, part);
}
static bool score(const Logits& x, Link link, const Scores& to, Part part) {
    if (x.type == Type::f32) return score_link<Type::f32>(x, link, to, part);
    if (x.type == Type::f16) return score_link<Type::f16>(x, link, to, part);
    return score_link<Type::bf16>(x, link, to, part);
}

template <Type In> static bool accumulate_link(const Logits& x, Link link, const State& to, Part part) {
    return link == Link::softmax ? accumulate_of<In, Link::softmax>(x, to, part) : accumulate_of<In, Link::sigmoid>(x, to, part);
}
static bool accumulate(const Logits& x, Link link, const State& to, Part part) {
    if (x.type == Type::f32) return accumulate_link<Type::f32>(x, link, to, part);
    if (x.type == Type::f16) return accumulate_link<Type::f16>(x, link, to, part);
    return accumulate_link<Type::bf16>(x, link, to, part);
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
extern const Kernels kernels = {MC_TEXT(MCSCORE_ISA), W, score, accumulate, keep_mask, dropout, draw, dropout_linear, dropout_head, panel_classes, sift, exp, philox};

}  // namespace MCSCORE_ISA
}  // namespace mcscore
