"""Maps of uncertainty in two dimensions: softmax, MC dropout and a Gaussian process, on two moons and on three digits of MNIST.

The digits 4, 7 and 9 are projected on the first two principal components of their images. A network is trained on
points of the plane; each map is the entropy of its prediction, as a share of the highest, and for MC dropout BALD, too.
A Gaussian process (scikit-learn) is what the others are measured by: it grows unsure wherever there are no data. The
profile is the mean of a map over the points of the plane that are equally far from the nearest training point.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from mcscore import Scorer

from . import curves
from .data import mnist
from .experiment import Claim, Setting, above_zero
from .kept import kept
from .training import mlp, trained

QUESTION = "does uncertainty grow with the distance to the data?"
DATA = "mnist"
SEEDS, QUICK_SEEDS = tuple(range(10)), (0, 1, 2, 3, 4)
MAPS = ("softmax", "MC dropout", "MC dropout, BALD", "Gaussian process")
PLANES = {"moons": "two moons", "digits": "digits 4, 7, 9 of MNIST"}
PASSES, STEPS, SIDE, EDGE, BINS = 200, 1500, 50, 4.0, np.array([0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3])
Floats = npt.NDArray[np.float32]


def points(plane: str, setting: Setting, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """200 points of the plane, each axis with mean 0 and standard deviation 1, and their classes."""
    from sklearn.datasets import make_moons

    if plane == "moons":
        x, y = make_moons(200, noise=0.15, random_state=seed)
    else:
        data = mnist(setting.data)
        of = np.flatnonzero(np.isin(data.pool_labels, (4, 7, 9)))
        images = data.pool[of].reshape(len(of), -1) / 255.0
        _, directions = np.linalg.eigh(np.cov(images.T))
        chosen = np.random.default_rng(seed).choice(len(of), 200, replace=False)
        x = images[chosen] @ directions[:, [-1, -2]]
        y = np.searchsorted((4, 7, 9), data.pool_labels[of[chosen]])
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y.astype(np.int64)


def grid() -> Floats:
    """The points of the map, row by row from below, (SIDE^2, 2)."""
    axis = np.linspace(-EDGE, EDGE, SIDE, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def fit(x: Floats, y: npt.NDArray[np.int64], seed: int) -> nn.Module:
    X, Y, sizes = torch.from_numpy(x), torch.from_numpy(y), (2, 64, 64, int(y.max()) + 1)
    loss = lambda model, batch: F.cross_entropy(model(X[batch]), Y[batch])  # noqa: E731
    return trained(lambda: mlp(sizes, (0.2, 0.2)), loss, len(y), seed, STEPS, 64, 5e-3, 1e-4)


def one_plane(plane: str, setting: Setting, seed: int) -> curves.JSON:
    """The maps of one seed, the distances of their points to the nearest training point, and the training points."""
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel
    from sklearn.neighbors import NearestNeighbors

    begin = time.process_time()
    (x, y), at = points(plane, setting, seed), grid()
    model = fit(x, y, seed)
    found = Scorer(model, PASSES, ("entropy", "bald"), seed=seed).predict(torch.from_numpy(at))
    with torch.no_grad():
        off = model(torch.from_numpy(at)).double().softmax(1).numpy()
    process = GaussianProcessClassifier(ConstantKernel(1.0) * RBF(1.0), random_state=seed).fit(x, y)
    maps = (
        _entropy(off),
        found.scores["entropy"].numpy(),
        found.scores["bald"].numpy(),
        _entropy(process.predict_proba(at)),
    )
    distance = NearestNeighbors(n_neighbors=1).fit(x).kneighbors(at)[0][:, 0]
    return {
        "maps": {name: np.round(each / np.log(y.max() + 1), 3).tolist() for name, each in zip(MAPS, maps, strict=True)},
        "distance": np.round(distance, 3).tolist(),
        "points": np.round(x, 3).tolist(),
        "classes": y.tolist(),
        "seconds": time.process_time() - begin,
    }


def _entropy(p_NC: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -(p_NC * np.log(np.maximum(p_NC, 1e-300))).sum(1)


def run(setting: Setting) -> curves.JSON:
    results: curves.JSON = {"planes": {}, "minutes": 0.0}
    for plane in PLANES:
        each = []
        for seed in setting.seeds:
            setting.tell(f"{PLANES[plane]}, seed {seed}")
            each.append(kept(setting.work / f"{plane}-{seed}.json", lambda p=plane, s=seed: one_plane(p, setting, s)))
        results["planes"][plane] = {name: _profiles(name, each) for name in MAPS} | {"first": each[0]}
        results["minutes"] += sum(one["seconds"] for one in each) / 60
    return results


def _profiles(name: str, each: list[curves.JSON]) -> dict[str, list]:
    """Of each seed: the mean of a map over each range of distances, the last of which has no end, and how often it is sure."""
    profile, sure = [], []
    for one in each:
        values, distance = np.array(one["maps"][name]), np.array(one["distance"])
        which = np.digitize(distance, BINS)
        profile.append([float(values[which == n].mean()) for n in range(1, len(BINS) + 1)])
        sure.append(float((values[distance > 2] < 0.1).mean()))
    return {"profile": profile, "sure": sure}


def far(results: curves.JSON, plane: str, name: str) -> npt.NDArray[np.float64]:
    """The mean of a map at distances over 2 standard deviations, (S,)."""
    return np.array(results["planes"][plane][name]["profile"])[:, np.searchsorted(BINS, 2) :].mean(1)


def claims(results: curves.JSON) -> list[Claim]:
    claimed = []
    for plane, told in PLANES.items():
        softmax, dropout, process = (
            far(results, plane, name) for name in ("softmax", "MC dropout", "Gaussian process")
        )
        claimed.append(above_zero(f"{told}: far from the data MC dropout is less sure than softmax", dropout - softmax))
        claimed.append(
            above_zero(
                f"{told}: far from the data the Gaussian process is less sure than MC dropout", process - dropout
            )
        )
    return claimed
