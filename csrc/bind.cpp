// Python bindings: each takes arrays as addresses with sizes, releases the GIL, and calls the kernel of the active
// instruction set. Importing a torch tensor through DLPack took 10 to 20 us per array, more than many whole calls. So the
// only caller, mcscore/kernels/native, checks dtypes, shapes, strides and bounds, and keeps the arrays alive.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <iterator>
#include <new>
#include <string>
#include <tuple>
#include <vector>

#include "dispatch.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace mcscore;

namespace {

using Address = uintptr_t;
using Range = std::tuple<int64_t, int64_t>;

template <class T> T* at(Address a) { return reinterpret_cast<T*>(a); }

void require(bool ok, const char* what) {
    if (!ok) throw nb::value_error(what);
}

[[noreturn]] void refuse(const char* what, int64_t value, int64_t position) {
    throw nb::value_error((what + std::to_string(value) + " at position " + std::to_string(position)).c_str());
}

Type type_of(int code) {
    require(code >= 0 && code <= 2, "dtype codes are 0 float32, 1 float16, 2 bfloat16");
    return static_cast<Type>(code);
}
Likelihood likelihood_of(int code) {
    require(code == 0 || code == 1, "likelihood codes are 0 categorical, 1 bernoulli");
    return static_cast<Likelihood>(code);
}

Part part_of(Range items, int64_t B, Range passes, int64_t t) {
    const auto [b0, b1] = items;
    const auto [t0, t1] = passes;
    require(0 <= b0 && b0 <= b1 && b1 <= B && 0 <= t0 && t0 <= t1 && t1 <= t, "range outside the array");
    return {b0, b1, t0, t1};
}

using Shape3 = std::tuple<int64_t, int64_t, int64_t>;

Logits logits_of(Address x, int dtype, Shape3 shape, Shape3 strides) {
    const auto [T, B, C] = shape;
    require(T >= 1 && B >= 0 && C >= 1, "logits need at least one pass and one class");
    const auto [stride_t, stride_b, stride_c] = strides;
    return {at<void>(x), type_of(dtype), T, B, C, stride_t, stride_b, stride_c};
}

// One address per score in the order of struct Scores, the prediction, then standard errors and biases; 0 = not requested.
using Outputs = std::vector<Address>;

Scores scores_of(const Outputs& to) {
    require(to.size() == 3 * kScores + 1, "outputs are scores, prediction, standard errors and biases");
    Scores out{at<float>(to[0]), at<float>(to[1]), at<float>(to[2]), at<float>(to[3]), at<float>(to[4]), at<float>(to[5]), at<float>(to[6]), at<int32_t>(to[7]), {}, {}};
    for (int i = 0; i < kScores; i++) out.se[i] = at<float>(to[8 + i]), out.bias[i] = at<float>(to[8 + kScores + i]);
    return out;
}

void score(Address x, int dtype, Shape3 shape, Shape3 strides, int likelihood, const Outputs& to, Range items) {
    const Logits logits = logits_of(x, dtype, shape, strides);
    const Scores out = scores_of(to);
    const Part part = part_of(items, logits.B, {0, logits.T}, logits.T);
    const Likelihood l = likelihood_of(likelihood);
    const Kernels* k = active();
    require(logits.T > 1 || !has_errors(out), "errors need at least two passes");
    nb::gil_scoped_release release;
    if (!k->score(logits, l, out, part)) throw std::bad_alloc();
}

void accumulate(Address x, int dtype, Shape3 shape, Shape3 strides, int likelihood, Address p, Address p2, Address h, Address votes, Address bad, Range items) {
    const Logits logits = logits_of(x, dtype, shape, strides);
    const State to{at<double>(p), at<double>(p2), at<double>(h), at<int32_t>(votes), at<bool>(bad)};
    const Part part = part_of(items, logits.B, {0, logits.T}, logits.T);
    const Likelihood l = likelihood_of(likelihood);
    const Kernels* k = active();
    nb::gil_scoped_release release;
    if (!k->accumulate(logits, l, to, part)) throw std::bad_alloc();
}

// (seed, site, passes, t, ids, B, elements, bits, threshold)
using MaskArguments = std::tuple<uint64_t, uint32_t, Address, int64_t, Address, int64_t, int64_t, int, uint32_t>;

Masks counters_of(const MaskArguments& a) {
    const auto [seed, site, passes, t, ids, B, elements, bits, threshold] = a;
    require(site < 65536, "site must lie in [0, 65536)");
    require(bits == 1 || bits == 8 || bits == 16 || bits == 32, "bits per element must be 1, 8, 16 or 32");
    require(0 <= elements && elements / (128 / bits) < (int64_t)1 << 32, "more mask elements per item than block numbers");
    for (int64_t i = 0; i < t; i++) {
        const int64_t pass = at<int64_t>(passes)[i];
        if (pass < 0 || pass >= 65536) refuse("passes must lie in [0, 65536), got ", pass, i);
    }
    for (int64_t i = 0; i < B; i++) {
        const int64_t id = at<int64_t>(ids)[i];
        if (id < -1) refuse("item ids must be >= 0 (or -1 for shared masks), got ", id, i);
    }
    return {seed, site, at<int64_t>(passes), at<int64_t>(ids), t, B, elements, bits, threshold};
}

Masks masks_of(const MaskArguments& a) {
    const Masks m = counters_of(a);
    require(m.random_bits <= 16, "a mask takes 1, 8 or 16 bits per element");
    require(0 < m.threshold && m.threshold < 1u << m.random_bits, "threshold must lie in (0, 2**bits)");
    return m;
}

void keep_mask(const MaskArguments& masks, Address out_tBE, Range items, Range passes) {
    const Masks m = masks_of(masks);
    const Part part = part_of(items, m.B, passes, m.t);
    const Kernels* k = active();
    nb::gil_scoped_release release;
    k->keep_mask(m, at<bool>(out_tBE), part);
}

void dropout(const MaskArguments& masks, Address x_sBEI, Address y_tBEI, int dtype, int64_t s, int64_t I, std::tuple<float, float, float> affine,
             Range items, Range passes) {
    const Masks m = masks_of(masks);
    require(s == 1 || s == m.t, "x must hold one copy of the batch, or one per pass");
    const auto [a, b, d] = affine;
    const Dropout f{at<void>(x_sBEI), at<void>(y_tBEI), type_of(dtype), s, I, a, b, d};
    const Part part = part_of(items, m.B, passes, m.t);
    const Kernels* k = active();
    nb::gil_scoped_release release;
    k->dropout(m, f, part);
}

void draw(const MaskArguments& words, Address out_tBE, int dtype, bool normal, Range items, Range passes) {
    const Masks m = counters_of(words);
    require(m.random_bits == 32, "a random number takes 32 bits");
    const Draw f{at<void>(out_tBE), type_of(dtype), normal};
    const Part part = part_of(items, m.B, passes, m.t);
    const Kernels* k = active();
    nb::gil_scoped_release release;
    k->draw(m, f, part);
}

// shape: (s, L, D, C, padded D, padded C)
void dropout_linear(const MaskArguments& masks, Address x_sBLD, Address packed, Address bias_C, Address y_tBLC,
                    std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t> shape, int how, float a, Range items, Range passes) {
    const Masks m = masks_of(masks);
    const auto [s, L, D, C, padded, width] = shape;
    require(s == 1 || s == m.t, "x must hold one copy of the batch, or one per pass");
    require(0 <= how && how <= 2 && L * D == m.E && padded >= D && width >= C, "the packing does not fit the operands");
    require(how != (int)How::subset || s == 1, "the subset way needs one x for all passes");
    const Linear f{at<float>(x_sBLD), at<float>(packed), at<float>(bias_C), at<float>(y_tBLC), s, L, D, C, padded, width, a, (How)how, nullptr};
    const Part part = part_of(items, m.B, passes, m.t);
    const Kernels* k = active();
    nb::gil_scoped_release release;
    if (!k->dropout_linear(m, f, part)) throw std::bad_alloc();
}

// shape: (D, C, padded C)
void dropout_head(const MaskArguments& masks, Address x_BD, Address packed, Address bias_C, Shape3 shape, float a, int likelihood, const Outputs& to,
                  Range items) {
    const Masks m = masks_of(masks);
    const auto [D, C, width] = shape;
    const Kernels* k = active();
    require(D == m.E && C >= 1 && m.t >= 1 && width >= C && width % k->panel_classes(C) == 0, "the packing does not fit the operands");
    const Head f{at<float>(x_BD), at<float>(packed), at<float>(bias_C), D, C, width, a};
    const Scores out = scores_of(to);
    const Part part = part_of(items, m.B, {0, m.t}, m.t);
    const Likelihood l = likelihood_of(likelihood);
    require(m.t > 1 || !has_errors(out), "errors need at least two passes");
    nb::gil_scoped_release release;
    if (!k->dropout_head(m, f, l, out, part)) throw std::bad_alloc();
}

// shape: M, T, C and blocks of 2 lanes() configurations
void conditional_entropy(Address p_MTC, Address rows, Address weights, Address mean_M, Address square_M, std::tuple<int64_t, int64_t, int64_t, int64_t> shape, Range items) {
    const auto [M, T, C, blocks] = shape;
    require(T >= 1 && C >= 1 && blocks >= 0, "joint entropies need at least one pass and one class");
    const Joint x{at<float>(p_MTC), at<float>(rows), at<float>(weights), at<double>(mean_M), at<double>(square_M), M, T, C, blocks};
    const Part part = part_of(items, M, {0, T}, T);
    const Kernels* k = active();
    nb::gil_scoped_release release;
    k->conditional_entropy(x, part);
}

int64_t panel_classes(int64_t C) { return active().load()->panel_classes(C); }

int lanes() { return active().load()->lanes; }

// ids: an address, or 0 for first_id, first_id + 1, ...; exclude: an address or 0. Returns (items written, items processed).
std::tuple<int64_t, int64_t> filter_above(Address scores, Address ids, int64_t first_id, Address exclude, int64_t n, float limit, int64_t last_tied, Address room_ids,
                                          Address room_scores, int64_t room) {
    const Candidates x{at<float>(scores), at<int64_t>(ids), first_id, at<bool>(exclude), n};
    const Kernels* k = active();
    nb::gil_scoped_release release;
    const Filtered s = k->filter_above(x, limit, last_tied, at<int64_t>(room_ids), at<float>(room_scores), room);
    return {s.found, s.taken};
}

void exp_of(Address x, Address y, int64_t n) { active().load()->exp(at<float>(x), at<float>(y), n); }

void philox(Address counter_n4, uint64_t key, Address out_n4, int64_t n) {
    active().load()->philox(at<uint32_t>(counter_n4), key, at<uint32_t>(out_n4), n);
}

std::string isa() { return active().load()->isa; }

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Kernels* k : available()) names.push_back(k->isa);
    return names;
}

void use_isa(const std::string& name) {
    for (const Kernels* k : available())
        if (name == k->isa) {
            active() = k;
            return;
        }
    throw nb::value_error("this machine cannot run that instruction set, or the extension was built without it");
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "C++ kernels of mcscore; call them through mcscore.kernels.native, which checks its arguments.";
    m.def("score", &score);
    m.def("accumulate", &accumulate);
    m.def("keep_mask", &keep_mask);
    m.def("dropout", &dropout);
    m.def("draw", &draw);
    m.def("dropout_linear", &dropout_linear);
    m.def("dropout_head", &dropout_head);
    m.def("conditional_entropy", &conditional_entropy);
    m.def("panel_classes", &panel_classes);
    m.def("lanes", &lanes);
    m.def("filter_above", &filter_above);
    m.def("exp", &exp_of);
    m.def("philox", &philox);
    m.def("isa", &isa);
    m.def("available_isas", &available_isas);
    m.def("use_isa", &use_isa);
    m.attr("score_names") = std::vector<std::string>(std::begin(kScoreNames), std::end(kScoreNames));
    m.attr("sum_names") = std::vector<std::string>(std::begin(kSumNames), std::end(kSumNames));
    m.attr("bald_noise") = kBaldNoise;
    m.attr("max_groups") = kMaxGroups;
}
