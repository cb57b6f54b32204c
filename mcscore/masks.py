"""Dropout masks and random numbers as pure functions: what each bit of them is, and the NumPy reference that says so.

One keep bit depends on (seed, site, pass, item id, element) and on nothing else: not on batch size, order of items,
chunking of passes, worker, device or resume. Every generator (this one, native, Triton) agrees bit for bit.

    key     = (seed low 32 bits, seed high 32 bits)
    counter = (block, id low 32 bits, id high 32 bits, site << 16 | pass)
    x0..x3  = Philox4x32 with 7 rounds (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011)

Each element takes b bits: 1 if p = 1/2, 8 if 256 p is whole, else 16 (p is then realized to within 2^-17, and the
rescale uses the realized rate). Element e lies in block e // (128 // b). The 128 bits of a block are its four words
laid out little-endian, x0 first; element e takes bits [b j, b j + b) of them, j = e mod (128 // b). It is kept if and
only if that unsigned value is >= threshold. So a block reads as 128 bits, 16 bytes or 8 little-endian 16-bit words, in
memory order, with no shuffle.

Masks shared by all items use the id 2^64 - 1, which an int64 array holds as -1.

Numbers that a model draws itself take a whole 32-bit word w each, ``draw_words``: element e has word e % 4 of block e // 4.

    uniform  (w >> (32 - b)) 2^-b, in [0, 1), with b = 24 bits for float32, 32 for float64, 11 for float16 and 8 for bfloat16:
             exact in its dtype
    normal   Box-Muller on the words w0, w1 of elements 2k, 2k + 1: with r = sqrt(-2 log((w0 + 1) 2^-32)) and a = 2 pi w1 2^-32,
             element 2k is r cos(a) and element 2k + 1 is r sin(a), in float64 for float64 and else in float32, then rounded. In
             float32, (w0 + 1) 2^-32 is rounded to it first, and a is q quarter turns, q = (w1 + 2^29) >> 30, and the rest of at
             most 1/8 turn, w1 - 2^30 q, rounded to float32.

Uniforms agree bit for bit; normals as well as logarithm, root, sine and cosine do, within a few units in the last place.

Known answers for seed 0x0123456789abcdef, site 3, pass 5, elements 0..31, 1 = kept:

    id         p     bits  threshold  keep
    2^40 + 7   0.5   1     1          00000100111000110110111101000100
               0.25  8     64         01101010110111001111111101111111
               0.3   16    19661      10001010111111111110011111111001
    shared     0.5   1     1          01100111101111110010101000110111
               0.25  8     64         11111101111011011111101101101101
               0.3   16    19661      11111011110110110011010111001111

and the words of elements 0..4:

    2^40 + 7   22f6c720 2a483ded 442ca291 2d178c55 8a599693
    shared     ec54fde6 7701e044 1ea7a2bf f707ccd4 6b48d270
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

PHILOX_ROUNDS = 7  # the fewest that pass BigCrush (Salmon et al. 2011, table 2)
SHARED_ID = 2**64 - 1
MAX_SITES = MAX_PASSES = 2**16  # site and pass share one 32-bit counter word

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@dataclass(frozen=True)
class Rate:
    """A drop probability as the generators realize it: kept where a ``bits``-bit draw is >= ``threshold``."""

    p: float  # realized: threshold / 2**bits
    bits: int  # 1, 8 or 16 random bits per element; none where p is 0 or 1
    threshold: int

    @property
    def keep(self) -> float:
        """The probability of keeping a value."""
        return 1.0 - self.p


def rate(p: float) -> Rate:
    """The realization of drop probability ``p``: no bits if p is 0 or 1, 1 bit if p = 1/2, 8 if 256 p is whole, else 16.

    The error of the realized ``Rate.p`` is at most 2^-17 with 16 bits, else 0. ValueError for p outside [0, 1], and for p so
    close to 0 or 1 that 16 bits would make 0 or 1 of it.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"drop probability must lie between 0 and 1, got {p!r}")
    if p in (0.0, 1.0):
        return Rate(p, 0, int(p))
    if p == 0.5:
        return Rate(0.5, 1, 1)
    if 256.0 * p == int(256.0 * p):
        return Rate(p, 8, int(256.0 * p))
    threshold = round(65536.0 * p)
    if threshold in (0, 65536):
        raise ValueError(f"drop probability {p!r} is too close to {threshold // 65536} for 16 random bits (2^-17)")
    return Rate(threshold / 65536.0, 16, threshold)


def philox4x32(counter_n4: npt.ArrayLike, key: int, rounds: int = PHILOX_ROUNDS) -> npt.NDArray[np.uint32]:
    """Philox4x32 (Salmon et al. 2011): counters (n, 4) uint32 and one 64-bit key -> (n, 4) uint32 random words."""
    counter = np.asarray(counter_n4, dtype=np.uint32)
    if counter.ndim != 2 or counter.shape[1] != 4:
        raise ValueError(f"counters must have shape (n, 4), got {counter.shape}")
    if not 0 <= key < 2**64:
        raise ValueError(f"key must fit 64 bits, got {key}")
    x0, x1, x2, x3 = counter.T.astype(np.uint64)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(rounds):
        a, b = _MULTIPLIERS[0] * x0, _MULTIPLIERS[1] * x2
        x0, x1, x2, x3 = (b >> _32) ^ x1 ^ np.uint64(k0), b & _LOW, (a >> _32) ^ x3 ^ np.uint64(k1), a & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3], axis=1).astype(np.uint32)


@dataclass(frozen=True)
class MaskSpec:
    """Which random bits are meant: those of some passes at one site for some items.

    seed: 0 <= seed < 2^64. site and every pass: 0 <= . < 65536. ids: int64, 0 <= id < 2^63, or -1 for masks shared by all items.
    passes (t,) and ids (B,) are arrays, sequences or tensors. rate: of dropping; None for numbers that a model draws itself.
    rank: the leading dimensions of the masked tensor, items included, that have mask elements of their own; the others share them
    (channel dropout of (B, C, H, W): 2). None: every value has its own.

    Raises ValueError for a seed or site outside these ranges, and ``check_values`` for passes and ids.
    """

    seed: int
    site: int
    passes: Any
    ids: Any
    rate: Rate | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must satisfy 0 <= seed < 2**64, got {self.seed}")
        if not 0 <= self.site < MAX_SITES:
            raise ValueError(f"site must satisfy 0 <= site < {MAX_SITES}, got {self.site}")

    def check_values(self) -> None:
        """ValueError unless passes and ids fit the counter. Generators in Python call it; the C++ kernels check for themselves.

        While a compiler traces they have no values yet. On a GPU they are the caller's word: looking would wait for it.
        """
        passes_t, ids_B = _on_host(self.passes), _on_host(self.ids)
        if passes_t.ndim != 1 or ids_B.ndim != 1:
            raise ValueError(f"passes and ids must be one-dimensional, got shapes {passes_t.shape} and {ids_B.shape}")
        if passes_t.size and not (passes_t.min() >= 0 and passes_t.max() < MAX_PASSES):
            raise ValueError(f"passes must lie in [0, {MAX_PASSES}), got {passes_t.min()} to {passes_t.max()}")
        if ids_B.size and ids_B.min() < -1:
            where = int(ids_B.argmin())
            raise ValueError(f"item ids must be >= 0 (or -1 for shared masks), got {ids_B[where]} at position {where}")

    @property
    def t(self) -> int:
        """The number of passes."""
        return len(self.passes)

    @property
    def B(self) -> int:
        """The number of items."""
        return len(self.ids)

    @property
    def drop_rate(self) -> Rate:
        """The rate of masks. ValueError for numbers, which have none."""
        if self.rate is None:
            raise ValueError(f"site {self.site} draws numbers: there is no rate of dropping")
        return self.rate

    def part(self, passes: slice = slice(None), items: slice = slice(None)) -> MaskSpec:
        """The same of some passes and some items."""
        return replace(self, passes=self.passes[passes], ids=self.ids[items])

    def shared(self, items: int) -> MaskSpec:
        """The same where each of so many items has the mask of the first."""
        return replace(self, ids=self.ids[:1].expand(items))


def _on_host(values: Any) -> npt.NDArray[np.int64]:
    """The values as int64; of a tensor on a GPU nothing."""
    if isinstance(values, Tensor) and values.device.type != "cpu":
        return np.empty(0, np.int64)
    return np.asarray(values, dtype=np.int64)


def keep_mask(masks: MaskSpec, elements: int) -> npt.NDArray[np.bool_]:
    """Reference keep masks (t, B, elements), True = kept. See the module docstring for the definition of each bit.

    elements: elements (or channels) of one item.
    """
    masks.check_values()
    rate = masks.drop_rate
    if rate.bits == 0:
        return np.full((masks.t, masks.B, elements), rate.p == 0.0)
    words = _random_blocks(masks, -(-elements // (128 // rate.bits))).astype("<u4")  # on every machine
    if rate.bits == 1:
        draws = np.unpackbits(words.view(np.uint8), axis=2, bitorder="little")
    else:
        draws = words.view(np.uint8 if rate.bits == 8 else "<u2")
    return (draws >= rate.threshold)[:, :, :elements]


def draw_words(numbers: MaskSpec, elements: int) -> npt.NDArray[np.uint32]:
    """Random words (t, B, elements), one per number drawn. The module docstring says which."""
    numbers.check_values()
    return _random_blocks(numbers, -(-elements // 4))[:, :, :elements]


def _random_blocks(spec: MaskSpec, blocks: int) -> npt.NDArray[np.uint32]:
    """The words of the first blocks of each (pass, item), one behind the other: (t, B, 4 blocks)."""
    seed, site = spec.seed, spec.site
    passes, ids = np.asarray(spec.passes, np.int64), np.asarray(spec.ids, np.int64)
    id_bits = ids.astype(np.uint64)  # -1 wraps to SHARED_ID: the same 64 bits
    counter = np.empty((len(passes), len(ids), blocks, 4), dtype=np.uint32)
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = (id_bits & _LOW)[None, :, None]
    counter[..., 2] = (id_bits >> _32)[None, :, None]
    counter[..., 3] = (site << 16 | passes)[:, None, None]
    return philox4x32(counter.reshape(-1, 4), seed).reshape(len(passes), len(ids), 4 * blocks)
