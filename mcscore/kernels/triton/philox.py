"""Philox4x32-7 and the bit layout of ``masks``, as Triton device functions.

A thread that owns V consecutive elements of an item (V = one 16-byte load, at most 16) computes the one 128-bit block
that they lie in and cuts its words with shifts known at compile time: 28 integer instructions and V cuts, nothing
crosses lanes and nothing goes through shared memory. Where V elements are less than a block (8 of 16 at 8 bits, 8 of
128 at 1 bit), neighboring threads compute the same block again. That is cheaper than passing it on: at V = 8 the
generator costs 3.5 instructions per element, where writing one bfloat16 at full memory speed allows about 14.
"""

from __future__ import annotations

import dataclasses

import torch
import triton
import triton.language as tl

from ...masks import PHILOX_ROUNDS, MaskSpec

ROUNDS = tl.constexpr(PHILOX_ROUNDS)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Seven rounds on uint32 counters and keys (Salmon et al. 2011) -> four uint32 words, in the broadcast shape."""
    for _ in tl.static_range(ROUNDS):
        a = c0.to(tl.uint64) * 0xD2511F53
        b = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (b >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = b.to(tl.uint32)
        c2 = (a >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = a.to(tl.uint32)
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def draws(first, ids, site_pass, key_low, key_high, V: tl.constexpr, BITS: tl.constexpr):
    """The BITS-bit draws of elements first..first+V-1 of each item: (n, V) uint32.

    first (n,) int32, a multiple of V (a power of two); ids (n,) int64; site_pass, key_low, key_high scalars of
    32 bits, any sign. A draw >= the threshold of its Rate keeps its element.
    """
    word = _words_of(first, ids, site_pass, key_low, key_high, V, BITS, False)
    lane = tl.arange(0, V)[None, :]
    return (word >> ((lane * BITS) % 32).to(tl.uint32)) & ((1 << BITS) - 1)


@triton.jit
def bits_on_top(first, ids, site_pass, key_low, key_high, V: tl.constexpr):
    """``draws`` of 1 bit each in the highest bit of a word, above others: (n, V) uint32."""
    word = _words_of(first, ids, site_pass, key_low, key_high, V, 1, True)
    return word << (31 - tl.arange(0, V)[None, :] % 32).to(tl.uint32)


@triton.jit
def _words_of(first, ids, site_pass, key_low, key_high, V: tl.constexpr, BITS: tl.constexpr, ONCE: tl.constexpr):
    """The word that each of V elements lies in, shifted so that element k is at its bit k BITS mod 32: (n, V) or (n, 1).

    ONCE: every block is computed by one thread, and its words go to the others of the row by a gather: of 64 elements of
    1 bit, the 8 threads of a row would each compute the block again, at 5 instructions per element.
    """
    PER_BLOCK: tl.constexpr = 128 // BITS
    WORDS: tl.constexpr = (BITS * V + 31) // 32  # words of the block that V elements reach into
    tl.static_assert(BITS * V <= 128, "V elements must lie in one block of 128 bits")
    element = first.to(tl.uint32)
    zero = element * 0
    w0, w1, w2, w3 = philox4x32(
        element // PER_BLOCK,
        ids.to(tl.uint32),
        (ids >> 32).to(tl.uint32),
        zero + site_pass.to(tl.uint32),
        zero + key_low.to(tl.uint32),
        zero + key_high.to(tl.uint32),
    )
    bit = (element % PER_BLOCK) * BITS  # where the V elements start in the block
    lane = tl.arange(0, V)[None, :]
    if WORDS == 4:
        low = tl.where(lane * BITS < 32, w0[:, None], w1[:, None])
        high = tl.where(lane * BITS < 96, w2[:, None], w3[:, None])
        word = tl.where(lane * BITS < 64, low, high)
    elif WORDS == 2:
        upper = bit >= 64
        low = tl.where(upper, w2, w0)
        high = tl.where(upper, w3, w1)
        if ONCE:
            both = low.to(tl.uint64) | (high.to(tl.uint64) << 32)
            both = tl.gather(both, tl.arange(0, first.shape[0]), 0)
            low, high = both.to(tl.uint32), (both >> 32).to(tl.uint32)
        word = tl.where(lane * BITS < 32, low[:, None], high[:, None])
    else:
        low = tl.where(bit >= 32, w1, w0)
        high = tl.where(bit >= 96, w3, w2)
        word = tl.where(bit >= 64, high, low) >> (bit % 32)
        if ONCE:
            word = tl.gather(word, tl.arange(0, first.shape[0]), 0)
        word = word[:, None]
    return word


@triton.jit
def tile_draws(first, ids, site_pass, key_low, key_high, ROWS: tl.constexpr, DEPTH: tl.constexpr, BITS: tl.constexpr):
    """The draws of elements first..first+DEPTH-1 of each item, (ROWS, DEPTH) uint32, in any layout a product asks for.

    As ``draws``, for tiles that feed tl.dot: DEPTH may be several blocks, whose words are then cut and laid out in order.
    first (ROWS,): a multiple of DEPTH or of the elements of a block, whichever is less.
    """
    PER_BLOCK: tl.constexpr = 128 // BITS
    if DEPTH <= PER_BLOCK:
        return draws(first, ids, site_pass, key_low, key_high, DEPTH, BITS)
    else:
        block = first.to(tl.uint32)[:, None] // PER_BLOCK + tl.arange(0, DEPTH // PER_BLOCK)[None, :].to(tl.uint32)
        zero = block * 0
        w0, w1, w2, w3 = philox4x32(
            block,
            zero + ids.to(tl.uint32)[:, None],
            zero + (ids >> 32).to(tl.uint32)[:, None],
            zero + site_pass.to(tl.uint32),
            zero + key_low.to(tl.uint32),
            zero + key_high.to(tl.uint32),
        )
        words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (ROWS, DEPTH * BITS // 32))
        lane = tl.arange(0, 32 // BITS)[None, None, :]
        cut = (words[:, :, None] >> (lane * BITS).to(tl.uint32)) & ((1 << BITS) - 1)
        return tl.reshape(cut, (ROWS, DEPTH))


def signed32(bits: int) -> int:
    """The low 32 bits of an integer as Triton passes an int32: one kernel whatever the value."""
    return (bits & 0xFFFFFFFF) - ((bits & 0x80000000) << 1)


def counter_args(masks: MaskSpec) -> dict[str, object]:
    """The kernel arguments that say which masks: passes and ids in memory, key and site as 32-bit numbers."""
    return {
        "passes": masks.passes,
        "ids": masks.ids,
        "key_low": signed32(masks.seed),
        "key_high": signed32(masks.seed >> 32),
        "site": signed32(masks.site << 16),
    }


def on_device(masks: MaskSpec, device: torch.device | str) -> MaskSpec:
    """The spec with passes and ids as contiguous int64 tensors on the device."""
    masks.check_values()
    passes, ids = (
        torch.as_tensor(values).to(device=device, dtype=torch.int64).contiguous()
        for values in (masks.passes, masks.ids)
    )
    return dataclasses.replace(masks, passes=passes, ids=ids)
