// Vectors of W float32 lanes in the instruction set this translation unit is compiled for.
//
// Arithmetic uses the vector extensions of GCC and Clang, so one source serves each width; an intrinsic is used only where
// the compilers do not find the best instruction. Everything is in mcscore::<instruction set> and always inlined: the linker
// could keep the AVX-512 version of a function that translation units share, and it would run on a machine without AVX-512.
// For the same reason no header here may include inline functions of the standard library.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

#define MC_INLINE inline __attribute__((always_inline))
#define MC_NOINLINE __attribute__((noinline))  // for functions with several callers: halves the compile time

namespace mcscore {
namespace MCSCORE_ISA {

// MCSCORE_W sets the width without intrinsics, so that wide code can be tested on a narrow machine.
#if defined(MCSCORE_W)
constexpr int W = MCSCORE_W;
#elif defined(__AVX512F__)
#define MC_AVX512
constexpr int W = 16;
#elif defined(__AVX2__)
#define MC_AVX2
constexpr int W = 8;
#else
constexpr int W = 4;
#if defined(__SSE4_1__)
#define MC_SSE4
#elif defined(__aarch64__)
#define MC_NEON
#endif
#endif

typedef float f32v __attribute__((vector_size(4 * W)));
typedef int32_t i32v __attribute__((vector_size(4 * W)));
typedef uint32_t u32v __attribute__((vector_size(4 * W)));
typedef uint64_t u64v __attribute__((vector_size(4 * W)));  // W / 2 lanes
typedef uint16_t u16w __attribute__((vector_size(2 * W)));  // W lanes, half a register
typedef uint8_t u8w __attribute__((vector_size(W)));        // W lanes, a quarter

template <class V, class T> MC_INLINE V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class T> MC_INLINE void store(T* p, V v) { __builtin_memcpy(p, &v, sizeof v); }
template <class To, class From> MC_INLINE To bits(From v) {
    static_assert(sizeof(To) == sizeof(From), "a change of type, not of size");
    To out;
    __builtin_memcpy(&out, &v, sizeof out);
    return out;
}
MC_INLINE f32v all(float x) { return x - f32v{}; }
MC_INLINE i32v all(int32_t x) { return x - i32v{}; }
MC_INLINE u64v all(uint64_t x) { return x - u64v{}; }

template <int...> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Indices<I...> type; };

template <int... I> MC_INLINE i32v lane_numbers(Indices<I...>) { return i32v{I...}; }
MC_INLINE i32v lane_numbers() { return lane_numbers(typename Count<W>::type()); }

// The larger lane; b if either is NaN. This is x86 maxps, which the compilers do not emit for a > b ? a : b.
MC_INLINE f32v max(f32v a, f32v b) {
#if defined(MC_AVX512)
    return (f32v)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(MC_AVX2)
    return (f32v)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(MC_SSE4)
    return (f32v)_mm_max_ps((__m128)a, (__m128)b);
#endif
    return a > b ? a : b;
}

// a b + c, as an explicit FMA: the compilers may contract it in one instance of a loop and not in another.
MC_INLINE f32v multiply_add(f32v a, f32v b, f32v c) {
#if defined(MC_AVX512)
    return (f32v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(MC_AVX2)
    return (f32v)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(MC_NEON)
    return (f32v)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#endif
    return a * b + c;
}

MC_INLINE f32v square_root(f32v a) {
#if defined(MC_AVX512)
    return (f32v)_mm512_sqrt_ps((__m512)a);
#elif defined(MC_AVX2)
    return (f32v)_mm256_sqrt_ps((__m256)a);
#elif defined(MC_SSE4)
    return (f32v)_mm_sqrt_ps((__m128)a);
#elif defined(MC_NEON)
    return (f32v)vsqrtq_f32((float32x4_t)a);
#endif
    f32v root;
    for (int l = 0; l < W; l++) root[l] = __builtin_sqrtf(a[l]);
    return root;
}

// Lane i of the result is lane pick(i) of the concatenation (a, b).
#if defined(__clang__)
#define MC_SHUFFLE(V, M, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MC_SHUFFLE(V, M, a, b, ...) __builtin_shuffle(a, b, (M){__VA_ARGS__})
#endif

// One butterfly step of a W x W transpose: swaps the lanes with bit S set in a with those with it clear in b.
template <int S, int... I> MC_INLINE void swap_lanes(f32v& a, f32v& b, Indices<I...>) {
    const f32v low = MC_SHUFFLE(f32v, i32v, a, b, (I & S ? W + I - S : I)...);
    b = MC_SHUFFLE(f32v, i32v, a, b, (I & S ? W + I : I + S)...);
    a = low;
}
template <int S> MC_INLINE void transpose_steps(f32v (&r)[W]) {
    if constexpr (S < W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; i++)
            if (!(i & S)) swap_lanes<S>(r[i], r[i + S], typename Count<W>::type());
        transpose_steps<2 * S>(r);
    }
}
MC_INLINE void transpose(f32v (&r)[W]) { transpose_steps<1>(r); }

template <int... I> MC_INLINE u64v interleave_even(u64v a, u64v b, Indices<I...>) {
    return MC_SHUFFLE(u64v, u64v, a, b, (I & 1 ? W / 2 + I - 1 : I)...);
}
template <int... I> MC_INLINE u64v interleave_odd(u64v a, u64v b, Indices<I...>) {
    return MC_SHUFFLE(u64v, u64v, a, b, (I & 1 ? W / 2 + I : I + 1)...);
}

// Product of the low 32 bits of each 64-bit lane with m; the upper 32 bits are ignored.
MC_INLINE u64v multiply_low(u64v a, uint32_t m) {
#if defined(MC_AVX512)
    return (u64v)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(MC_AVX2)
    return (u64v)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(MC_SSE4)
    return (u64v)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#elif defined(MC_NEON)
    return (u64v)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(m));
#endif
    return (a & 0xffffffffu) * (uint64_t)m;
}

// Sum and maximum over the lanes, in each lane of the result.
template <int S, int... I> MC_INLINE f32v swapped(f32v v, Indices<I...>) { return MC_SHUFFLE(f32v, i32v, v, v, (I ^ S)...); }
template <int S = W / 2> MC_INLINE f32v sum_lanes(f32v v) {
    v += swapped<S>(v, typename Count<W>::type());
    if constexpr (S > 1) return sum_lanes<S / 2>(v);
    else return v;
}
template <int S = W / 2> MC_INLINE f32v max_lanes(f32v v) {
    v = max(v, swapped<S>(v, typename Count<W>::type()));
    if constexpr (S > 1) return max_lanes<S / 2>(v);
    else return v;
}

// W unsigned bytes or 16-bit words from memory, widened (GCC would go through scalar registers).
MC_INLINE i32v load_bytes(const uint8_t* p) {
#if defined(MC_AVX512)
    return (i32v)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(MC_AVX2)
    return (i32v)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#elif defined(MC_SSE4)
    return (i32v)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(load<int32_t>(p)));
#endif
    return __builtin_convertvector(load<u8w>(p), i32v);
}
MC_INLINE i32v load_words(const void* p) {
#if defined(MC_AVX512)
    return (i32v)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#elif defined(MC_AVX2)
    return (i32v)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(MC_SSE4)
    return (i32v)_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i*)p));
#endif
    return __builtin_convertvector(load<u16w>(p), i32v);
}

// ---- 16-bit floats: W of them from and to memory ------------------------------------------------------------------

template <Type> struct Element;
template <> struct Element<Type::f32> { typedef float type; };
template <> struct Element<Type::f16> { typedef uint16_t type; };
template <> struct Element<Type::bf16> { typedef uint16_t type; };

MC_INLINE f32v load_half(const uint16_t* p) {
#if defined(MC_AVX512)
    return (f32v)_mm512_cvtph_ps((__m256i)load<u16w>(p));
#elif defined(MC_AVX2)
    return (f32v)_mm256_cvtph_ps((__m128i)load<u16w>(p));
#elif defined(MC_NEON)
    return (f32v)vcvt_f32_f16((float16x4_t)load<u16w>(p));
#endif
    // A multiplication rebiases the exponent, which is also right for subnormal halves.
    const u32v u = (u32v)load_words(p), magnitude = (u & 0x7fffu) << 13;
    const f32v scaled = bits<f32v>(magnitude) * 0x1p112f;
    const u32v finite = bits<u32v>(scaled);
    const u32v value = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : finite;
    return bits<f32v>(value | ((u & 0x8000u) << 16));
}

MC_INLINE u16w to_half(f32v v) {  // round to nearest, ties to even
#if defined(MC_AVX512)
    return (u16w)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(MC_AVX2)
    return (u16w)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(MC_NEON)
    return (u16w)vcvt_f16_f32((float32x4_t)v);
#endif
    const u32v all_bits = bits<u32v>(v), sign = all_bits & 0x80000000u, f = all_bits ^ sign;
    const u32v normal = (f + 0xc8000fffu + ((f >> 13) & 1u)) >> 13;
    const u32v subnormal = bits<u32v>(bits<f32v>(f) + 0.5f) - 0x3f000000u;  // the addition rounds
    const u32v special = f > 0x7f800000u ? (f & 0u) + 0x7e00u : (f & 0u) + 0x7c00u;
    u32v out = f < 0x38800000u ? subnormal : normal;
    out = f >= 0x47800000u ? special : out;
    return __builtin_convertvector(out | (sign >> 16), u16w);
}

MC_INLINE f32v load_bfloat(const uint16_t* p) { return bits<f32v>(load_words(p) << 16); }

MC_INLINE u16w to_bfloat(f32v v) {  // round to nearest, ties to even
    const u32v f = bits<u32v>(v), rounded = (f + 0x7fffu + ((f >> 16) & 1u)) >> 16;
    const u32v out = (f & 0x7fffffffu) > 0x7f800000u ? (f & 0u) + 0x7fc0u : rounded;
    return __builtin_convertvector(out, u16w);
}

template <Type In> MC_INLINE f32v load_as_float(const typename Element<In>::type* p) {
    if constexpr (In == Type::f32) return load<f32v>(p);
    else if constexpr (In == Type::f16) return load_half(p);
    else return load_bfloat(p);
}

template <Type Out> MC_INLINE void store_from_float(typename Element<Out>::type* p, f32v v) {
    if constexpr (Out == Type::f32) store(p, v);
    else if constexpr (Out == Type::f16) store(p, to_half(v));
    else store(p, to_bfloat(v));
}

template <Type In> MC_INLINE float load_one(const typename Element<In>::type* p) {
    if constexpr (In == Type::f32) return *p;
    if constexpr (In == Type::bf16) return bits<float>((uint32_t)*p << 16);
    uint16_t part[W] = {(uint16_t)*p};
    return load_half(part)[0];
}

// The first n < W elements, 0 in the other lanes. Reads nothing beyond p[n - 1].
template <Type In> MC_INLINE f32v load_first(const typename Element<In>::type* p, int n) {
#if defined(MC_AVX512)
    if constexpr (In == Type::f32) return (f32v)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif defined(MC_AVX2)
    if constexpr (In == Type::f32) return (f32v)_mm256_maskload_ps(p, (__m256i)(lane_numbers() < n));
#endif
    typename Element<In>::type part[W];
    for (int i = 0; i < W; i++) part[i] = i < n ? p[i] : 0;
    return load_as_float<In>(part);
}

template <Type Out> MC_INLINE void store_first(typename Element<Out>::type* p, int n, f32v v) {
    typename Element<Out>::type part[W];
    store_from_float<Out>(part, v);
    for (int i = 0; i < n; i++) p[i] = part[i];
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
