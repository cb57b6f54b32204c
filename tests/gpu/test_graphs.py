"""Steps replayed from a CUDA graph give the bits of steps that are not; padded steps give the same bits in any batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu_shared import look_into
from mcscore import Execution, Scorer

from .models import KINDS, Kind, T
from .test_scorer import EVERY, joined, same_bits, scorer_of

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("error:.*run without a CUDA graph")]


@EVERY
def test_graphs_change_no_bit(kind: Kind) -> None:
    graphed, plain = scorer_of(kind), scorer_of(kind, graphs=False)
    k = graphed.prepare(kind.items(3))["items"]
    for n, seed in ((4 * k + 2, 3), (4 * k, 4), (k, 5), (k - 1, 6), (2 * k + 1, 7)):
        items, ids = kind.items(n, seed).cuda(), torch.arange(n, device="cuda") * 3 + seed
        assert same_bits(graphed(items, ids), plain(items, ids)), n


def test_a_replayed_step_is_a_few_launches() -> None:
    launches = {}
    for graphs in (True, False):
        scorer = scorer_of(KINDS["vit"], graphs=graphs)
        k = scorer.prepare(KINDS["vit"].items(3))["items"]
        items = KINDS["vit"].items(k).cuda()
        for _ in range(4):
            scorer(items)
        seen = look_into(lambda scorer=scorer, items=items: scorer(items), 1.0, torch.device("cuda"))
        launches[graphs] = seen["launches"]
        assert seen["kernels"] > 20
    assert 0 < launches[True] < launches[False] / 2


@pytest.mark.parametrize("kind", [KINDS["head"], KINDS["mlp"], KINDS["in-place"]], ids=["head", "mlp", "in-place"])
def test_a_graph_sees_weights_that_change_between_calls(kind: Kind) -> None:
    def trained(model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.25)

    def replaced(model: nn.Module) -> None:
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.weight = nn.Parameter(last.weight.detach() * -0.5)

    def loaded(model: nn.Module) -> None:
        model.load_state_dict({name: value + 0.01 for name, value in model.state_dict().items()})

    scorer = scorer_of(kind)
    k = scorer.prepare(kind.items(3))["items"]
    items = kind.items(4 * k).cuda()
    before = scorer(items)["bald"]
    changes: tuple[Callable[[nn.Module], None], ...] = (trained, replaced, loaded)
    for change in changes:
        change(scorer.model)
        after = scorer(items)
        assert not torch.equal(after["bald"], before)
        execution = Execution(memory=kind.memory, dtype="model", graphs=False)
        assert same_bits(after, Scorer(scorer.model, passes=T, execution=execution)(items)), change.__name__
        before = after["bald"]


def test_scores_of_one_call_are_not_overwritten_by_the_next() -> None:
    kind = KINDS["mlp"]
    scorer = scorer_of(kind)
    k = scorer.prepare(kind.items(3))["items"]
    batches = [kind.items(k, seed).cuda() for seed in range(6)]
    kept = [scorer(batch) for batch in batches]
    again = [{name: values.clone() for name, values in scorer(batch).items()} for batch in batches]
    assert same_bits(joined(kept), joined(again))


def test_a_graph_and_another_stream_do_not_race() -> None:
    kind = KINDS["mlp"]
    scorer = scorer_of(kind)
    k = scorer.prepare(kind.items(3))["items"]
    items = kind.items(3 * k).cuda()
    expected = {name: values.clone() for name, values in scorer(items).items()}
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)  # what follows on this stream is late
        found = scorer(items)
    side.synchronize()
    assert same_bits(found, expected)


@EVERY
def test_with_deterministic_steps_no_split_changes_a_bit(kind: Kind) -> None:
    scorer = scorer_of(kind, deterministic=True)
    k = scorer.prepare(kind.items(3))["items"]
    n = 2 * k + 3
    items, ids = kind.items(n).cuda(), torch.arange(n, device="cuda")
    whole = scorer(items, ids)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).cuda()

    def split(sizes: list[int]) -> dict[str, Tensor]:
        return joined([scorer(part, its) for part, its in zip(items.split(sizes), ids.split(sizes), strict=True)])

    assert same_bits(split([1, 2, n - 3]), whole)
    assert same_bits(split([k + 1, n - k - 1]), whole)
    shuffled = scorer(items[order], ids[order])
    assert same_bits(shuffled, {name: values[order] for name, values in whole.items()})
    assert same_bits(scorer_of(kind, deterministic=True, graphs=False)(items, ids), whole)
