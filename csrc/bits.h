// Masks as bits, 64 elements per word, for kernels that look up or mask features by the word.
#pragma once

#include "dropout.h"

namespace mcscore {
namespace MCSCORE_ISA {

MC_INLINE uint32_t lane_bits(i32v lanes) {  // each lane is all ones or all zeros
#if defined(MC_AVX512)
    return _mm512_movepi32_mask((__m512i)lanes);
#elif defined(MC_AVX2)
    return (uint32_t)_mm256_movemask_ps((__m256)lanes);
#elif defined(MC_SSE4)
    return (uint32_t)_mm_movemask_ps((__m128)lanes);
#endif
    uint32_t out = 0;
    for (int l = 0; l < W; l++) out |= (uint32_t)(lanes[l] & 1) << l;
    return out;
}

// Sets bit e of the little-endian words if element e is kept, for n draws. Bits from n on are undefined.
template <int BITS> MC_INLINE void to_bits(const uint8_t* draws, int64_t n, int32_t threshold, uint64_t* words) {
    if constexpr (BITS == 1) {
        __builtin_memcpy(words, draws, (size_t)(n + 63) / 64 * 8);
        return;
    }
    for (int64_t e = 0; e < n; e += 64) {
        uint64_t word = 0;
#if defined(MC_AVX512)
        if constexpr (BITS == 8) {
            word = _mm512_cmpge_epu8_mask(_mm512_loadu_si512(draws + e), _mm512_set1_epi8((char)threshold));
        } else if constexpr (BITS == 16) {
            const __m512i limit = _mm512_set1_epi16((short)threshold);
            word = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(draws + 2 * e), limit) |
                   (uint64_t)_mm512_cmpge_epu16_mask(_mm512_loadu_si512(draws + 2 * e + 64), limit) << 32;
        } else
#elif defined(MC_AVX2)
        if constexpr (BITS == 8) {
            for (int half = 0; half < 2; half++) {
                const __m256i v = _mm256_loadu_si256((const __m256i*)(draws + e + 32 * half));
                const __m256i kept = _mm256_cmpeq_epi8(_mm256_max_epu8(v, _mm256_set1_epi8((char)threshold)), v);
                word |= (uint64_t)(uint32_t)_mm256_movemask_epi8(kept) << (32 * half);
            }
        } else if constexpr (BITS == 16) {
            const __m256i limit = _mm256_set1_epi16((short)threshold);
            for (int half = 0; half < 2; half++) {
                const __m256i a = _mm256_loadu_si256((const __m256i*)(draws + 2 * e + 64 * half));
                const __m256i b = _mm256_loadu_si256((const __m256i*)(draws + 2 * e + 64 * half + 32));
                const __m256i both = _mm256_packs_epi16(_mm256_cmpeq_epi16(_mm256_max_epu16(a, limit), a),
                                                        _mm256_cmpeq_epi16(_mm256_max_epu16(b, limit), b));  // halves interleaved
                word |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(both, 0xd8)) << (32 * half);
            }
        } else
#endif
            for (int i = 0; i < 64; i += W) word |= (uint64_t)lane_bits(keep_lanes<BITS>(draws, e + i, threshold)) << i;
        words[e / 64] = word;
    }
}

// Writes the keep bits of item b in passes [t0, t1), in rows of `stride` words.
template <int BITS> static void bits_of(const Masks& m, int64_t b, int64_t t0, int64_t t1, uint64_t* words, int64_t stride) {
    for_chunks<BITS>(m, b, Part{b, b + 1, t0, t1}, [&](int64_t t, int64_t e0, int64_t n, const uint8_t* draws) {
        to_bits<BITS>(draws, n, (int32_t)m.threshold, words + (t - t0) * stride + e0 / 64);
    });
}
static void bits_of(const Masks& m, int64_t b, int64_t t0, int64_t t1, uint64_t* words, int64_t stride) {
    if (m.random_bits == 1) bits_of<1>(m, b, t0, t1, words, stride);
    else if (m.random_bits == 8) bits_of<8>(m, b, t0, t1, words, stride);
    else bits_of<16>(m, b, t0, t1, words, stride);
}

MC_INLINE uint64_t bits_from(const uint64_t* words, int64_t e) {  // 64 bits from bit e on; the row ends in a spare word
    const int shift = (int)(e & 63);
    return shift ? words[e >> 6] >> shift | words[(e >> 6) + 1] << (64 - shift) : words[e >> 6];
}

// Words per row of one pass: whole chunks of draws, and one spare word.
MC_INLINE int64_t words_per_row(const Masks& m) { return (m.E + 63) / 64 + 33; }

}  // namespace MCSCORE_ISA
}  // namespace mcscore
