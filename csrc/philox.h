// Philox4x32 with 7 rounds (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011).
//
// Counter words are in the low halves of 64-bit lanes, one block per lane. The 32 x 32 -> 64 bit multiplication of x86 and NEON
// reads the low halves alone and yields both output words at once. A round is then 2 multiplications, 2 shifts and 4 xors for
// W / 2 blocks: 0.9 instructions and (measured, AVX2) 0.4 cycles per random byte.
#pragma once

#include "simd.h"

namespace mcscore {
namespace MCSCORE_ISA {

constexpr int kLanes = W / 2;  // blocks in flight

struct Counter {
    u64v c0, c1, c2, c3;
};

// The rounds of N counters at once. A round is a dependency chain of 6 cycles: two counters ran 1.17 times as fast as one.
template <int N> MC_INLINE void philox_rounds(Counter (&c)[N], uint64_t key) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#pragma GCC unroll 7
    for (int round = 0; round < 7; round++) {
        const u64v a = all((uint64_t)k0), b = all((uint64_t)k1);
#pragma GCC unroll 2
        for (int i = 0; i < N; i++) {
            const u64v p0 = multiply_low(c[i].c0, 0xD2511F53u), p1 = multiply_low(c[i].c2, 0xCD9E8D57u);
            c[i] = {(p1 >> 32) ^ c[i].c1 ^ a, p1, (p0 >> 32) ^ c[i].c3 ^ b, p0};
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

// The block in lane l: even lanes hold the first half of the blocks, odd lanes the second. So one in-lane interleave
// (unpack) stores the blocks in memory order.
MC_INLINE constexpr int block_of_lane(int l) { return l / 2 + (l & 1) * (kLanes / 2); }

// The 16 bytes of each block, word 0 first, blocks in the order of block_of_lane.
MC_INLINE void store_blocks(const Counter& c, uint8_t* out) {
    const u64v low = (c.c0 & 0xffffffffu) | (c.c1 << 32), high = (c.c2 & 0xffffffffu) | (c.c3 << 32);
    store(out, interleave_even(low, high, typename Count<kLanes>::type()));
    store(out + 8 * kLanes, interleave_odd(low, high, typename Count<kLanes>::type()));
}

// Writes n blocks of random bits of one (id, site, pass), from block `first` on, rounded up to whole vectors of blocks.
MC_INLINE void random_run(uint64_t seed, uint64_t id, uint32_t site_pass, uint32_t first, int64_t n, uint8_t* out) {
    u64v lane{};
    for (int l = 0; l < kLanes; l++) lane[l] = (uint64_t)block_of_lane(l);
    const u64v low = all(id & 0xffffffffu), high = all(id >> 32), last = all((uint64_t)site_pass);
    const auto at = [&](int64_t i) { return Counter{lane + (uint64_t)(first + (uint32_t)i), low, high, last}; };
    int64_t i = 0;
    for (; i + kLanes < n; i += 2 * kLanes, out += 32 * kLanes) {
        Counter c[2] = {at(i), at(i + kLanes)};
        philox_rounds(c, seed);
        store_blocks(c[0], out);
        store_blocks(c[1], out + 16 * kLanes);
    }
    if (i < n) {
        Counter c[1] = {at(i)};
        philox_rounds(c, seed);
        store_blocks(c[0], out);
    }
}

// Writes n blocks for each of several passes, in rows without gaps. Lanes run over (row, block), so no lane is idle for an
// item with fewer blocks than lanes.
MC_INLINE void random_rows(
    uint64_t seed, uint64_t id, uint32_t site, const int64_t* passes, int64_t rows, uint32_t first, int64_t n, uint8_t* out) {
    if (n >= 2 * kLanes || n % kLanes == 0) {  // a row's surplus blocks are overwritten by the next row
        for (int64_t r = 0; r < rows; r++, out += 16 * n) random_run(seed, id, site << 16 | (uint32_t)passes[r], first, n, out);
        return;
    }
    const u64v low = all(id & 0xffffffffu), high = all(id >> 32);
    int64_t row = 0, block = 0;
    for (int64_t i = 0; i < rows * n; i += kLanes, out += 16 * kLanes) {
        uint64_t blocks[kLanes], pass[kLanes];
        for (int l = 0; l < kLanes; l++) {
            const int at = 2 * (l % (kLanes / 2)) + l / (kLanes / 2);  // the inverse of block_of_lane
            blocks[at] = (uint32_t)(first + (uint64_t)block);
            pass[at] = site << 16 | (uint32_t)passes[row < rows ? row : rows - 1];
            const bool next = ++block == n;
            block = next ? 0 : block;
            row += next;
        }
        Counter c[1] = {{load<u64v>(blocks), low, high, load<u64v>(pass)}};
        philox_rounds(c, seed);
        store_blocks(c[0], out);
    }
}

// Philox of counters (n, 4) words to outputs (n, 4), for tests against published answers.
static void philox(const uint32_t* counter_n4, uint64_t key, uint32_t* out_n4, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t part = n - i < kLanes ? n - i : kLanes;
        uint64_t word[4][kLanes] = {};
        for (int l = 0; l < kLanes; l++)
            if (block_of_lane(l) < part)
                for (int w = 0; w < 4; w++) word[w][l] = counter_n4[4 * (i + block_of_lane(l)) + w];
        Counter c[1] = {{load<u64v>(word[0]), load<u64v>(word[1]), load<u64v>(word[2]), load<u64v>(word[3])}};
        philox_rounds(c, key);
        uint8_t blocks[16 * kLanes];
        store_blocks(c[0], blocks);
        __builtin_memcpy(out_n4 + 4 * i, blocks, 16 * (size_t)part);
    }
}

}  // namespace MCSCORE_ISA
}  // namespace mcscore
