// Python bindings: shapes, types and bounds are checked here, the GIL is released, the kernel of the active instruction
// set is called. The one caller is mcscore/kernels/native.py, which allocates outputs and splits work over threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <new>
#include <optional>
#include <stdexcept>

#include "dispatch.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace mcscore;

namespace {

using Cpu = nb::device::cpu;
using AnyFloats = nb::ndarray<nb::ro, Cpu>;
template <class T, size_t N> using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, Cpu>;
template <class T, size_t N> using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, Cpu>;
template <class T, size_t N> using Maybe = std::optional<Out<T, N>>;
using Range = std::tuple<int64_t, int64_t>;

void require(bool ok, const char* what) {
    if (!ok) throw nb::value_error(what);
}

Type type_of(const nb::dlpack::dtype& d) {
    if (d.lanes == 1 && d.code == (uint8_t)nb::dlpack::dtype_code::Float && d.bits == 32) return Type::f32;
    if (d.lanes == 1 && d.code == (uint8_t)nb::dlpack::dtype_code::Float && d.bits == 16) return Type::f16;
    if (d.lanes == 1 && d.code == (uint8_t)nb::dlpack::dtype_code::Bfloat && d.bits == 16) return Type::bf16;
    throw nb::type_error("expected float32, float16 or bfloat16");
}

Link link_of(const std::string& name) {
    if (name == "softmax") return Link::softmax;
    if (name == "sigmoid") return Link::sigmoid;
    throw nb::value_error("link must be 'softmax' or 'sigmoid'");
}

Logits logits_of(const AnyFloats& x) {
    require(x.ndim() == 3, "logits must have three dimensions (T, B, C)");
    require(x.shape(2) <= 1 || x.stride(2) == 1, "the classes of a row must be contiguous");
    require(x.shape(0) >= 1 && x.shape(2) >= 1, "logits need at least one pass and one class");
    return {x.data(), type_of(x.dtype()), (int64_t)x.shape(0), (int64_t)x.shape(1), (int64_t)x.shape(2), x.stride(0), x.stride(1)};
}

void check_range(int64_t begin, int64_t end, int64_t n) { require(0 <= begin && begin <= end && end <= n, "range outside the array"); }

template <class T> T* pointer(const Maybe<T, 1>& a, int64_t n) {
    if (!a) return nullptr;
    require((int64_t)a->shape(0) == n, "an output does not have one entry per item");
    return a->data();
}
template <class T> T* pointer(const Maybe<T, 2>& a, int64_t n, int64_t m) {
    if (!a) return nullptr;
    require((int64_t)a->shape(0) == n && (int64_t)a->shape(1) == m, "a state array is not (items, classes)");
    return a->data();
}

void score(const AnyFloats& logits_TBC, const std::string& link, int64_t begin, int64_t end, const Maybe<float, 1>& entropy,
           const Maybe<float, 1>& expected_entropy, const Maybe<float, 1>& bald, const Maybe<float, 1>& least_confidence,
           const Maybe<float, 1>& margin, const Maybe<float, 1>& variation_ratio, const Maybe<float, 1>& mean_std,
           const Maybe<int32_t, 1>& prediction) {
    const Logits x = logits_of(logits_TBC);
    check_range(begin, end, x.B);
    const Scores to{pointer(entropy, x.B), pointer(expected_entropy, x.B), pointer(bald, x.B), pointer(least_confidence, x.B),
                    pointer(margin, x.B), pointer(variation_ratio, x.B), pointer(mean_std, x.B), pointer(prediction, x.B)};
    const Link l = link_of(link);
    const Kernels* k = active();
    nb::gil_scoped_release release;
    if (!k->score(x, l, to, {begin, end, 0, x.T})) throw std::bad_alloc();
}

void accumulate(const AnyFloats& logits_tBC, const std::string& link, int64_t begin, int64_t end, const Maybe<double, 2>& p,
                const Maybe<double, 2>& p2, const Maybe<double, 1>& h, const Maybe<int32_t, 2>& votes, const Maybe<bool, 1>& bad) {
    const Logits x = logits_of(logits_tBC);
    check_range(begin, end, x.B);
    const State to{pointer(p, x.B, x.C), pointer(p2, x.B, x.C), pointer(h, x.B), pointer(votes, x.B, x.C), pointer(bad, x.B)};
    const Link l = link_of(link);
    const Kernels* k = active();
    nb::gil_scoped_release release;
    if (!k->accumulate(x, l, to, {begin, end, 0, x.T})) throw std::bad_alloc();
}

Masks masks_of(uint64_t seed, int64_t site, const In<int64_t, 1>& passes_t, const In<int64_t, 1>& ids_B, int64_t elements, int random_bits,
               int64_t threshold) {
    require(0 <= site && site < 65536, "site must lie in [0, 65536)");
    require(elements >= 0 && elements < (int64_t)1 << 35, "more mask elements per item than block numbers");
    require(random_bits == 1 || random_bits == 8 || random_bits == 16, "bits per element must be 1, 8 or 16");
    require(0 < threshold && threshold < (int64_t)1 << random_bits, "threshold must lie in (0, 2**bits)");
    for (size_t i = 0; i < passes_t.shape(0); i++)
        require(0 <= passes_t.data()[i] && passes_t.data()[i] < 65536, "passes must lie in [0, 65536)");
    return {seed, (uint32_t)site, passes_t.data(), ids_B.data(), (int64_t)passes_t.shape(0), (int64_t)ids_B.shape(0), elements, random_bits,
            (uint32_t)threshold};
}

void keep_mask(uint64_t seed, int64_t site, const In<int64_t, 1>& passes_t, const In<int64_t, 1>& ids_B, int64_t elements, int random_bits,
               int64_t threshold, const Out<bool, 3>& out_tBE, int64_t b0, int64_t b1, int64_t t0, int64_t t1) {
    const Masks m = masks_of(seed, site, passes_t, ids_B, elements, random_bits, threshold);
    require((int64_t)out_tBE.shape(0) == m.t && (int64_t)out_tBE.shape(1) == m.B && (int64_t)out_tBE.shape(2) == m.E,
            "the output is not (passes, items, elements)");
    check_range(b0, b1, m.B), check_range(t0, t1, m.t);
    const Kernels* k = active();
    bool* const out = out_tBE.data();
    nb::gil_scoped_release release;
    k->keep_mask(m, out, {b0, b1, t0, t1});
}

void dropout(const AnyFloats& x_sBEI, const nb::ndarray<Cpu>& y_tBEI, const In<int64_t, 1>& passes_t, const In<int64_t, 1>& ids_B, uint64_t seed,
             int64_t site, int random_bits, int64_t threshold, float a, float b, float d, int64_t b0, int64_t b1, int64_t t0, int64_t t1) {
    require(x_sBEI.ndim() == 4 && y_tBEI.ndim() == 4, "x must be (s, B, E, I) and y (t, B, E, I)");
    const Masks m = masks_of(seed, site, passes_t, ids_B, (int64_t)x_sBEI.shape(2), random_bits, threshold);
    const int64_t s = (int64_t)x_sBEI.shape(0), I = (int64_t)x_sBEI.shape(3);
    require(s == 1 || s == m.t, "x must hold one copy of the batch, or one per pass");
    require((int64_t)x_sBEI.shape(1) == m.B && (int64_t)y_tBEI.shape(0) == m.t, "x and y do not match the passes and ids");
    int64_t expected = 1;
    for (size_t i = 4; i-- > 0;) {
        require(x_sBEI.shape(i) <= 1 || x_sBEI.stride(i) == expected, "x must be contiguous");
        require(i == 0 || y_tBEI.shape(i) == x_sBEI.shape(i), "y must have x's shape after the passes");
        require(y_tBEI.shape(i) <= 1 || y_tBEI.stride(i) == expected, "y must be contiguous");
        expected *= (int64_t)x_sBEI.shape(i);
    }
    const Type type = type_of(x_sBEI.dtype());
    require(type == type_of(y_tBEI.dtype()), "x and y must have one dtype");
    check_range(b0, b1, m.B), check_range(t0, t1, m.t);
    const Dropout f{x_sBEI.data(), y_tBEI.data(), type, s, I, a, b, d};
    const Kernels* k = active();
    nb::gil_scoped_release release;
    k->dropout(m, f, {b0, b1, t0, t1});
}

void philox(const In<uint32_t, 2>& counter_n4, uint64_t key, const Out<uint32_t, 2>& out_n4) {
    require(counter_n4.shape(1) == 4 && out_n4.shape(1) == 4 && out_n4.shape(0) == counter_n4.shape(0), "counters and outputs must be (n, 4)");
    active().load()->philox(counter_n4.data(), key, out_n4.data(), (int64_t)counter_n4.shape(0));
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
    m.def("score", &score, "logits_TBC"_a, "link"_a, "begin"_a, "end"_a, nb::kw_only(), "entropy"_a = nb::none(), "expected_entropy"_a = nb::none(),
          "bald"_a = nb::none(), "least_confidence"_a = nb::none(), "margin"_a = nb::none(), "variation_ratio"_a = nb::none(),
          "mean_std"_a = nb::none(), "prediction"_a = nb::none());
    m.def("accumulate", &accumulate, "logits_tBC"_a, "link"_a, "begin"_a, "end"_a, nb::kw_only(), "p"_a = nb::none(), "p2"_a = nb::none(),
          "h"_a = nb::none(), "votes"_a = nb::none(), "bad"_a = nb::none());
    m.def("keep_mask", &keep_mask, "seed"_a, "site"_a, "passes_t"_a, "ids_B"_a, "elements"_a, "bits"_a, "threshold"_a, "out_tBE"_a, "b0"_a, "b1"_a,
          "t0"_a, "t1"_a);
    m.def("dropout", &dropout, "x_sBEI"_a, "y_tBEI"_a, "passes_t"_a, "ids_B"_a, "seed"_a, "site"_a, "bits"_a, "threshold"_a, "a"_a, "b"_a, "d"_a,
          "b0"_a, "b1"_a, "t0"_a, "t1"_a);
    m.def("philox", &philox, "counter_n4"_a, "key"_a, "out_n4"_a);
    m.def("isa", &isa);
    m.def("available_isas", &available_isas);
    m.def("use_isa", &use_isa, "name"_a);
}
