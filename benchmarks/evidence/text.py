"""Text search from few labels: MC dropout on the Cranfield collection.

An item is a pair of a query and one of the 100 documents that tf-idf ranks first for it, as judges see them; all pairs of
the training queries are the pool (15,000), and one in twenty is relevant. Words are hashed, weighted by tf-idf and
projected on 64 directions (scikit-learn), which needs no labels; a small network encodes both texts and says whether the
document answers the query. From 20 labels, ten of them relevant, it is trained anew in each round, and ranks the 100
documents of each query held out; the others follow as tf-idf ranks them. A seed is a split of the queries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcscore import Scorer
from mcscore.cycle import Round, cycles
from mcscore.demo import balanced_start

from . import curves
from .data import Collection, cranfield
from .experiment import Claim, Setting, above_zero
from .kept import pool_of
from .stats import average_precision
from .training import classifier, mlp

QUESTION = "do labels chosen by uncertainty find documents better?"
DATA = "cranfield"
SEEDS, QUICK_SEEDS = tuple(range(10)), (0, 1, 2, 3, 4)
FIRST, BATCH, PASSES, STEPS, SIZE, CANDIDATES = 20, 10, 100, 100, 64, 100
Floats, Ints = npt.NDArray[np.float32], npt.NDArray[np.int64]
METHODS = {
    "BALD": {"select": {"by": "bald", "diversity": "none"}},
    "entropy": {"select": {"by": "entropy", "diversity": "none"}},
    "random": {"select": "random"},
}


def encoded(texts: Collection) -> tuple[Floats, Floats, Floats]:
    """Queries (Q, 64) and documents (D, 64), each of length 1, and the cosine of their words (Q, D)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    hashing = HashingVectorizer(n_features=2**14, stop_words="english", alternate_sign=False, norm=None)
    weighing = TfidfTransformer(sublinear_tf=True).fit(hashing.transform(texts.documents))
    queries, documents = (weighing.transform(hashing.transform(each)) for each in (texts.queries, texts.documents))
    project = TruncatedSVD(SIZE, random_state=0).fit(documents)
    short = [project.transform(each) for each in (queries, documents)]
    q, d = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-9) for each in short)
    return q.astype(np.float32), d.astype(np.float32), (queries @ documents.T).toarray().astype(np.float32)


class Matcher(nn.Module):
    """Pairs of numbers (B, 2), query and document -> logits (B, 2) of irrelevant and relevant.

    What the network says is added to the cosines of words and of directions; untrained it says 0, and ranks as they do.
    """

    def __init__(self, queries: Floats, documents: Floats, words: Floats) -> None:
        super().__init__()
        for name, values in (("queries", queries), ("documents", documents), ("words", words)):
            self.register_buffer(name, torch.from_numpy(values))
        self.encode = nn.Linear(SIZE, 32)
        self.judge = mlp((32 + 2, 32, 32, 2), (0.25, 0.25))
        nn.init.zeros_(self.judge[-1].weight)

    def forward(self, pairs: Tensor) -> Tensor:
        query, document = pairs.long().unbind(1)
        q, d = self.queries[query], self.documents[document]
        alike = torch.stack([self.words[query, document], (q * d).sum(1)], 1)
        judged = self.judge(torch.cat([self.encode(q) * self.encode(d), alike], 1))
        return judged + F.pad(4 * alike.sum(1, keepdim=True), (1, 0))


def run(setting: Setting) -> curves.JSON:
    texts = cranfield(setting.data)
    vectors = encoded(texts)
    each = [_split(texts, vectors, seed, setting) for seed in setting.seeds]
    results = curves.of_cycles({method: [one[method][0] for one in each] for method in METHODS})
    cosines = {"tf-idf": vectors[2], f"{SIZE} directions": vectors[0] @ vectors[1].T}
    held = [_queries(texts, seed)[1] for seed in setting.seeds]
    results["unlabeled"] = {
        name: float(np.mean([_precision(texts, q, each[q]) for q in held])) for name, each in cosines.items()
    }
    return results


def _queries(texts: Collection, seed: int) -> tuple[Ints, Ints]:
    """Two thirds of the queries for the pool, one for the test."""
    order = np.random.default_rng(seed).permutation(len(texts.queries))
    held, train = np.split(order, [len(order) // 3])
    return np.sort(train), np.sort(held)


def _precision(texts: Collection, queries: Ints, score_QD: Floats) -> float:
    """The mean over queries of the average precision with which all documents are ranked."""
    return float(np.nanmean(list(map(average_precision, score_QD, texts.relevant[queries]))))


def _pairs(queries: Ints, words: Floats) -> Floats:
    """Each query with the documents that its words are nearest to; floats, as a pool holds them."""
    first = np.argsort(-words[queries], axis=1, kind="stable")[:, :CANDIDATES]
    return np.stack([np.repeat(queries, CANDIDATES), first.ravel()], 1).astype(np.float32)


def _split(
    texts: Collection, vectors: tuple[Floats, Floats, Floats], seed: int, setting: Setting
) -> dict[str, list[list[Round]]]:
    train, held = _queries(texts, seed)
    words = vectors[2]
    pairs, test = _pairs(train, words), _pairs(held, words)
    relevant = texts.relevant[tuple(pairs.astype(int).T)].astype(np.int32)
    path = setting.work / f"split-{seed}"
    pool = pool_of(path / "pool", pairs)

    def evaluate(model: nn.Module) -> dict[str, float]:
        chance = Scorer(model, PASSES, ("entropy",)).predict(test).mean[:, 1].numpy()
        ranked = words.copy()  # cosines, below 1
        ranked[tuple(test.astype(int).T)] = 1 + chance
        return {"average precision": _precision(texts, held, ranked[held])}

    return cycles(
        pool,
        methods=METHODS,
        seeds=[seed],
        out=path / "cycles",
        start=lambda seed: balanced_start(relevant, FIRST, seed),
        fit=lambda pool, labeled, seed: classifier(lambda: Matcher(*vectors), pool, labeled, seed, STEPS),
        evaluate=evaluate,
        oracle=lambda ids: relevant[ids],
        rounds=8 if setting.quick else 28,
        k=BATCH,
        scorer={"passes": PASSES, "scores": ("bald", "entropy")},
        progress=lambda stage: setting.tell(f"split {seed}, {stage}"),
    )


def claims(results: curves.JSON) -> list[Claim]:
    """That labels help, which is all that a few rounds show; with all of them, that their choice does."""
    precision_SR = curves.values(results, "entropy", "average precision")
    helped = precision_SR[:, -3:].mean(1) - precision_SR[:, 0]
    claimed = [above_zero("average precision of entropy in the last three rounds is above the first's", helped)]
    if results["size"] == "full":
        for method, each in curves.over_random(results, "average precision").items():
            claimed.append(above_zero(f"average precision of {method}, mean over all rounds, is above random's", each))
    return claimed
