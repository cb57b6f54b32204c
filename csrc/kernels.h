// Interface of the kernels: plain structs, and one table of function pointers per instruction set.
//
// Kernels depend neither on Python nor on a framework. They are single-threaded and re-entrant, and access their arguments
// alone; callers split the items over threads. A kernel returns false if, and only if, it could not allocate its scratch
// memory, and has then written nothing. Scratch is O(C) bytes for scores; for Linears it has the masks and sums of a block
// of passes as well.
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

constexpr int kScores = 7;
struct Scores {  // (B,) each; null = not requested
    float *entropy, *expected_entropy, *bald, *least_confidence, *margin, *variation_ratio, *mean_std;
    int32_t* prediction;
    float *se[kScores], *bias[kScores];  // standard error and bias of each score, in the order of kScoreNames
};
static inline bool has_errors(const Scores& to) {
    for (const float* se : to.se)
        if (se) return true;
    return false;
}
// Fields of struct Scores and of struct State, in order; a test compares them with acquisition.py.
constexpr const char* kScoreNames[] = {"entropy", "expected_entropy", "bald", "least_confidence", "margin", "variation_ratio", "mean_std"};
constexpr const char* kSumNames[] = {"p", "p2", "h", "votes", "bad"};

constexpr int64_t kMaxGroups = 32;  // MAX_GROUPS of jackknife.py; the same test compares it
constexpr double kBaldNoise = 0x1p-20;  // BALD_NOISE of acquisition.py, which has the reason; the same test compares it

struct State {  // sums over passes, updated in place; null = not requested
    double *p_BC, *p2_BC, *h_B;
    int32_t* votes_BC;
    bool* bad_B;
};

struct Masks {  // random bits of one site: a function of seed, site, pass, id and element
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
    const float* packed;  // weights in the order in which `how` reads them
    const float* bias_C;  // or null
    float* y_tBLC;
    int64_t s, L, D, C;
    int64_t padded, width;  // D and C, rounded up by the packing
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

struct Joint {  // mean[m] = sum_s weights[s] h[s, m], square[m] = sum_s weights[s] h[s, m]^2; see joint.h
    const float* p_MTC;
    const float *rows, *weights;  // (blocks, T, 2 lanes) and (blocks, 2 lanes): padded by rows of weight 0
    double *mean_M, *square_M;
    int64_t M, T, C, blocks;
};

struct Candidates {  // scores among which a top-k searches
    const float* scores;
    const int64_t* ids;  // or null: first_id, first_id + 1, ...
    int64_t first_id;
    const bool* exclude;  // or null
    int64_t n;
};

struct Filtered {
    int64_t found, taken;  // items written; items processed. taken < n: no room, or (if there was room) a negative id
};

struct Part {  // items [b0, b1) and passes [t0, t1) of one call
    int64_t b0, b1, t0, t1;
};

struct Kernels {
    const char* isa;
    int lanes;  // float32 per vector; packings depend on it
    bool (*score)(const Logits&, Likelihood, const Scores&, Part);
    bool (*accumulate)(const Logits&, Likelihood, const State&, Part);
    void (*keep_mask)(const Masks&, bool* keep_tBE, Part);
    void (*dropout)(const Masks&, const Dropout&, Part);
    void (*draw)(const Masks&, const Draw&, Part);
    bool (*dropout_linear)(const Masks&, const Linear&, Part);
    bool (*dropout_head)(const Masks&, const Head&, Likelihood, const Scores&, Part);
    int64_t (*panel_classes)(int64_t C);
    void (*conditional_entropy)(const Joint&, Part);
    Filtered (*filter_above)(const Candidates&, float limit, int64_t last_tied, int64_t* ids, float* scores, int64_t room);
    void (*exp)(const float* x, float* y, int64_t n);  // for tests: x <= 0
    void (*philox)(const uint32_t* counter_n4, uint64_t key, uint32_t* out_n4, int64_t n);
};

// One per translation unit; dispatch.h decides which of them this machine can run.
namespace baseline { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }

}  // namespace mcscore
