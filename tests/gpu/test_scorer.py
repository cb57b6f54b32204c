"""A Scorer on a GPU gives the scores of the CPU up to rounding, its masks bit by bit, and its own scores bit by bit again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mcscore import Dropout, Execution, Scorer

from .models import KINDS, Kind, T

pytestmark = pytest.mark.gpu
SCORES = ("bald", "entropy")
EVERY = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def scorer_of(kind: Kind, device: str = "cuda", **options: object) -> Scorer:
    return Scorer(
        kind.on(device), passes=T, scores=SCORES, execution=Execution(memory=kind.memory, dtype="model", **options)
    )


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@EVERY
def test_scores_are_those_of_the_cpu_up_to_rounding(kind: Kind) -> None:
    """A convolution may round its operands to TF32, which has 10 bits."""
    items, ids = kind.items(11), torch.arange(11) * 7 + 2**40
    ours, theirs = scorer_of(kind)(items, ids), scorer_of(kind, "cpu")(items, ids)
    assert float(theirs["bald"].mean()) > 0.003
    for name in SCORES:
        torch.testing.assert_close(ours[name].cpu(), theirs[name], rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("masks", ["independent", "shared"])
@pytest.mark.parametrize("p", [0.5, 0.25, 0.3, 0.1])
def test_masks_are_those_of_the_cpu_bit_by_bit_in_any_batch(p: float, masks: str) -> None:
    items, ids = torch.ones(9, 133), torch.tensor([0, 1, 5, 2**31, 2**32 + 1, 2**63 - 1, 3, 2, 77])

    def kept(device: str, part: slice) -> Tensor:
        model = nn.Sequential(nn.Dropout(p)).to(device)
        scorer = Scorer(model, passes=T, device=device, dropout=Dropout(masks=masks))
        return scorer.samples(items[part], ids[part]).cpu() != 0

    whole = kept("cpu", slice(None))
    assert float(whole.float().mean()) == pytest.approx(1 - p, abs=0.05)
    assert torch.equal(kept("cuda", slice(None)), whole)
    assert torch.equal(torch.cat([kept("cuda", slice(0, 2)), kept("cuda", slice(2, 9))], 1), whole)


@pytest.mark.parametrize("deterministic", [False, True])
def test_items_of_16_bits_are_scored(deterministic: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 5))
    items = torch.randint(0, 65536, (11, 1, 8, 8), dtype=torch.int32).to(torch.uint16)
    execution = Execution(deterministic=deterministic)
    ours, theirs = (Scorer(model.to(device), T, SCORES, execution=execution)(items) for device in ("cuda", "cpu"))
    torch.testing.assert_close(ours["bald"].cpu(), theirs["bald"], rtol=1e-3, atol=1e-5)


@EVERY
def test_the_same_step_gives_the_same_bits_wherever_it_stands_and_another_shape_the_same_up_to_rounding(
    kind: Kind,
) -> None:
    scorer = scorer_of(kind)
    k = scorer.prepare(kind.items(3))["items"]
    assert 3 <= k <= 60
    items, ids = kind.items(3 * k).cuda(), torch.arange(3 * k, device="cuda")
    whole = scorer(items, ids)
    steps = [scorer(items[lo : lo + k], ids[lo : lo + k]) for lo in (2 * k, 0, k)]
    assert same_bits(joined([steps[1], steps[2], steps[0]]), whole)
    assert same_bits(scorer_of(kind)(items, ids), whole)  # another Scorer, too
    shorter = scorer(items[: k - 1], ids[: k - 1])
    for name in SCORES:
        torch.testing.assert_close(shorter[name], whole[name][: k - 1], rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("kind", [KINDS["head"], KINDS["mlp"], KINDS["vit"]], ids=["head", "mlp", "vit"])
def test_a_model_in_bfloat16_ranks_as_in_float32(kind: Kind) -> None:
    items = kind.items(60)
    fine = scorer_of(kind)(items)["bald"]
    coarse = Scorer(kind.on("cuda").bfloat16(), passes=T, scores=SCORES)(items)["bald"]
    ranks = torch.stack([fine, coarse]).argsort().argsort().float()
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.95


def test_a_step_for_which_memory_runs_out_is_halved_and_gives_the_same_scores() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(64, 4096), nn.ReLU(), nn.Dropout(0.3), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 9)
    )
    model = model.cuda().eval()
    items = torch.randn(900, 64, device="cuda")
    expected = Scorer(model, passes=T, execution=Execution(memory=64 << 20, dtype="model", graphs=False))(items)
    scorer = Scorer(model, passes=T, execution=Execution(memory=1 << 30, dtype="model", graphs=False))
    planned = scorer.prepare(items)["items"]
    assert planned > 300
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (300 << 20)) / total)
        scores = scorer(items)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert scorer.steps is not None
    assert scorer.steps.plan.items < planned
    for name in SCORES:
        torch.testing.assert_close(scores[name], expected[name], rtol=1e-2, atol=1e-4)
