// What the kernels take and give: plain structs and one table of function pointers per instruction set.
//
// Kernels know nothing of Python or of any framework. They are single-threaded, re-entrant and touch only what they are
// given; callers split the items over threads. A kernel returns false if, and only if, it could not get its scratch
// memory (O(C) bytes), and has then written nothing.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace mcscore {

enum class Type : int { f32, f16, bf16 };
enum class Likelihood : int { categorical, bernoulli };

struct Logits {  // (T, B, C); strides count elements
    const void* data;
    Type type;
    int64_t T, B, C, stride_t, stride_b, stride_c;
};

struct Scores {  // (B,) each; null = not asked for
    float *entropy, *expected_entropy, *bald, *least_confidence, *margin, *variation_ratio, *mean_std;
    int32_t* prediction;
};
// The fields of struct Scores and of struct State in their order, for a test to compare with acquisition.py.
constexpr const char* kScoreNames[] = {"entropy", "expected_entropy", "bald", "least_confidence", "margin", "variation_ratio", "mean_std"};
constexpr const char* kSumNames[] = {"p", "p2", "h", "votes", "bad"};

constexpr double kBaldNoise = 0x1p-20;  // BALD_NOISE of acquisition.py, which says why; compared by the same test

struct State {  // sums over passes, added to in place; null = not kept
    double *p_BC, *p2_BC, *h_B;
    int32_t* votes_BC;
    bool* bad_B;
};

struct Masks {  // the random bits of one site: a function of (seed, site, pass, id, element) alone
    uint64_t seed;
    uint32_t site;
    const int64_t* passes_t;
    const int64_t* ids_B;
    int64_t t, B, E;
    int random_bits;  // per element: 1, 8 or 16; 32 for struct Draw
    uint32_t threshold;  // kept iff the element's random value >= threshold; not used by struct Draw
};

struct Dropout {  // y = keep ? a x + b : d
    const void* x_sBEI;
    void* y_tBEI;
    Type type;
    int64_t s, I;  // s = 1: every pass reads the same x
    float a, b, d;
};

struct Draw {  // one number per element
    void* out_tBE;
    Type type;
    bool normal;  // else uniform on [0, 1)
};

enum class How : int { subset, dot, dense };  // see linear.h

struct Linear {  // y = bias + a W (keep x); the masks have E = L D elements
    const float* x_sBLD;
    const float* packed;  // the weights in the order that `how` reads them
    const float* bias_C;  // or null
    float* y_tBLC;
    int64_t s, L, D, C;
    int64_t padded, width;  // D and C as the packing has rounded them up
    float a;
    How how;
    float* scratch;  // set by the kernel
};

struct Head {  // logits of pass t = bias + a W (keep_t x); the masks have E = D elements
    const float* x_BD;
    const float* packed;  // (width / panel, D, panel), panel = Kernels::panel_classes(C)
    const float* bias_C;  // or null
    int64_t D, C, width;
    float a;
};

struct Candidates {  // of a top-k
    const float* scores;
    const int64_t* ids;  // or null: first_id, first_id + 1, ...
    int64_t first_id;
    const bool* exclude;  // or null
    int64_t n;
};

struct Filtered {
    int64_t found, taken;  // keys written; items looked at. taken < n: no room, or (where there was room) an id beyond 32 bits
};

struct Part {  // the share of one call: items [b0, b1), passes [t0, t1)
    int64_t b0, b1, t0, t1;
};

struct Kernels {
    const char* isa;
    int lanes;  // float32 per vector: packings depend on it
    bool (*score)(const Logits&, Likelihood, const Scores&, Part);
    bool (*accumulate)(const Logits&, Likelihood, const State&, Part);
    void (*keep_mask)(const Masks&, bool* keep_tBE, Part);
    void (*dropout)(const Masks&, const Dropout&, Part);
    void (*draw)(const Masks&, const Draw&, Part);
    bool (*dropout_linear)(const Masks&, const Linear&, Part);
    bool (*dropout_head)(const Masks&, const Head&, Likelihood, const Scores&, Part);
    int64_t (*panel_classes)(int64_t C);
    Filtered (*filter_above)(const Candidates&, uint64_t cut, uint64_t* keys, int64_t room);  // cut 0: none yet
    void (*exp)(const float* x, float* y, int64_t n);  // for tests: x <= 0
    void (*philox)(const uint32_t* counter_n4, uint64_t key, uint32_t* out_n4, int64_t n);
};

// One per translation unit that was compiled in; which of them this machine can run is decided in dispatch.h.
namespace baseline { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }

}  // namespace mcscore
