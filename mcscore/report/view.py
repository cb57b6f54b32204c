"""Makes the variables of the page's template: every figure, sentence and table cell."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..acquisition import SCORES
from ..labels import has_label
from ..text import count, duration, number
from . import stats
from .cards import MAX_SELECTED, Card, cards, kept_text
from .data import page_data
from .gains import gains_section
from .labeled import labeled_section
from .map import map_section
from .mix import MAX_CLASSES, class_mix
from .plots import histogram, plane
from .shown import Shown, stream, title
from .source import Chosen
from .sureness import sureness

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run

NAMED_IDS = 12


def view(run: Run, pool: Pool | None, chosen: Chosen | None, warnings: list[str]) -> dict[str, Any]:
    """Return the variables of page.html. ``pool`` None: no pictures, labels, keys or class names. ``warnings`` come first."""
    scores = tuple(run.meta["scores"])
    ids = chosen.ids if chosen else np.empty(0, np.int64)
    shown = Shown(
        run,
        pool,
        chosen,
        {name: stats.spread(stream(run, name)) for name in scores},
        {name: run.values(name, ids) for name in (*run.columns, "prediction")},
        pool.labels if pool is not None else None,
        list(pool.classes) if pool is not None and pool.classes else None,
    )
    selected, random = cards(shown)
    plane = _values_and_score(shown) if shown.regression else _decomposition(shown)
    places = map_section(shown)
    return {
        "title": run.path.resolve().name if isinstance(run.path, Path) else run.path.name,
        "subtitle": _subtitle(shown),
        "complete": run.complete,
        "status": "complete" if run.complete else f"{run.done / max(run.n, 1):.0%} done",
        "tiles": _tiles(shown),
        "warnings": warnings + _warnings(shown),
        "has_selection": chosen is not None,
        "scores": [_score(shown, name, spread) for name, spread in shown.spreads.items() if spread is not None],
        "plane": plane,
        "mix": _value_mix(shown) if shown.regression else _class_mix(shown),
        "verb": "predicts" if shown.regression else "says",
        "map": places,
        "gains": gains_section(shown),
        "sureness": sureness(shown),
        "labeled": labeled_section(shown),
        "dropped_text": _dropped(shown),
        "chosen": selected,
        "random": random,
        "chosen_text": _chosen_text(shown),
        "kept_text": kept_text(shown, selected),
        "take_text": _take_text(shown, selected),
        "data": page_data(shown, selected, [part["plot"] for part in (plane, places) if part]),
        "facts": [_what_ran(shown), _on_what(shown)],
        "sites": [
            {**site, "p": _rate(site), "shape": " × ".join(map(str, site["shape"]))} for site in run.meta["sites"]
        ],
        "version": __version__,
        "written": _moment(datetime.now(UTC).isoformat()),
    }


# ---- sentences and figures -------------------------------------------------------------------------------------------


def _rate(site: Mapping[str, Any]) -> str:
    """The drop probability of a site, as text; random numbers that the model draws have none."""
    return "drawn" if site["p"] is None else f"{site['p']:g}"


def _subtitle(shown: Shown) -> list[str]:
    meta, pool = shown.run.meta, shown.pool
    digest = meta["model"]["fingerprint"].removeprefix("sha256:")[:12]
    rates = ", ".join(_rate(site) for site in meta["sites"] if site["active"])
    sites = count(sum(site["active"] for site in meta["sites"]), "site")
    return [
        f"{meta['model']['class'].rpartition('.')[2]} {digest}, dropout at {sites} (p = {rates}), "
        f"T = {meta['passes']:,}, seed {meta['seed']}, {meta['masks']} masks, on {meta['device']}",
        meta["pool"]["path"] + (f", from {pool.source}" if pool is not None and pool.source else ""),
    ]


def _dropped(shown: Shown) -> str:
    """What the plots leave out of a screened run."""
    if shown.run.meta.get("certificate") is None:
        return ""
    return (
        f" Only the {shown.run.scored:,} items with all passes are shown here and below: the screen dropped the others."
    )


def _tiles(shown: Shown) -> list[dict[str, str]]:
    run = shown.run
    if (certificate := run.meta.get("certificate")) is None:
        tiles = [
            (f"{run.scored:,}", f"items scored of {run.n:,}"),
            (f"{run.meta['passes']:,}", "passes per item"),
            (duration(run.seconds), "scoring time"),
            (f"{run.items_per_second:,.0f}", "items per second"),
        ]
    else:
        screen, seconds = run.meta["screen"], run.seconds + (run.screen.seconds if run.screen is not None else 0)
        tiles = [
            (f"{certificate['items']:,}", f"items screened with {screen['passes']:,} passes"),
            (f"{run.scored:,}", f"of them scored with {run.meta['passes']:,} passes"),
            (f"{certificate['passes'] / max(1, certificate['items']):,.1f}", "passes per item"),
            (duration(seconds), "scoring time"),
        ]
    if shown.labels_N is not None:
        tiles.append((f"{int(has_label(shown.labels_N).sum()):,}", "labeled by now"))
    tiles.append((f"{len(shown.ids):,}", "selected"))
    return [{"value": value, "what": what} for value, what in tiles]


def _warnings(shown: Shown) -> list[str]:
    run, told = (
        shown.run,
        [f"This did not look right before scoring: {each['text']}." for each in shown.run.meta.get("findings", ())],
    )
    if not run.complete:
        told.append(
            f"This run is not complete: {run.done:,} of {run.n:,} items are done, and all below speaks of those. "
            "The same command resumes it."
        )
    bad = run.nonfinite_ids
    if len(bad):
        more = f" and {len(bad) - NAMED_IDS:,} more" if len(bad) > NAMED_IDS else ""
        told.append(
            f"The model gave no finite output for {count(len(bad), 'item')}, which cannot be selected: "
            f"{', '.join(map(str, bad[:NAMED_IDS]))}{more}."
        )
    if len(lost := run.unreadable_ids):
        told.append(
            f"{count(len(lost), 'item')} could not be read from the pool and cannot be selected. When the pool is whole again, "
            "the command that started the run scores them."
        )
    for name, spread in shown.spreads.items():
        if spread is None:
            told.append(f"No item has a finite {title(name)} score.")
        elif spread.flat:
            told.append(
                f"Every item has the same {title(name)} score, {number(spread.lo)}: there is nothing to choose by. "
                "Does dropout reach the output, and does the model tell items apart?"
            )
    told += _at_noise_floor(shown)
    if shown.chosen is None:
        told.append(f"No selection yet. To make one: mcscore select {run.path} -k 50 --by {shown.by}")
    return told


def _at_noise_floor(shown: Shown) -> list[str]:
    spread = shown.spreads.get("bald")
    if spread is None or spread.flat or spread.lo > 0 or shown.regression:
        return []
    pool = sum(int((values == 0).sum()) for values in stream(shown.run, "bald")())
    chosen = int((shown.selected["bald"] == 0).sum()) if shown.by == "bald" else 0
    picked = f" {count(chosen, 'item')} of the selection {'is' if chosen == 1 else 'are'} among them." if chosen else ""
    return [
        f"BALD of {count(pool, 'item')} is below what rounding lets one tell, 2^-20 of the entropy (on a GPU more), and is stored as 0. "
        f"Ties are ordered by id.{picked}"
    ]


def _chosen_text(shown: Shown) -> str:
    chosen, spread = shown.chosen, shown.spreads[shown.by]
    if chosen is None or spread is None:
        return ""
    method = "the highest scores" if chosen.method == "none" else f"diversity by {chosen.method}"
    apart = f", no two closer than {chosen.radius:.4g}" if chosen.radius is not None else ""
    cards = f" The first {MAX_SELECTED:,} are shown." if len(chosen.ids) > MAX_SELECTED else ""
    return (
        f"{count(len(chosen.ids), 'item')} by {title(chosen.by)}, {method}{apart} ({chosen.name}). "
        f"Their median score is {number(float(np.median(shown.selected[chosen.by])))}; "
        f"the median of all is {number(spread.quantiles[0.5])}.{cards}"
    )


def _take_text(shown: Shown, selected: list[Card]) -> str:
    """How labels of the page come into the pool."""
    pool, classes = shown.run.meta["pool"]["path"], shown.classes or []
    if shown.run.meta["likelihood"] == "bernoulli":
        return "A pool has one label per item, so labels.csv has a column of 0 and 1 for each class, for your training code."
    # A name of digits may be read as the number of another class.
    digits = any(name.strip().isdecimal() and int(name) != number for number, name in enumerate(classes))
    replaces = (
        " (--overwrite replaces labels that the pool has)" if any(card.number is not None for card in selected) else ""
    )
    return f"Then: mcscore pool label {pool} labels.csv{' --labels-are names' if digits else ''}{replaces}"


def _what_ran(shown: Shown) -> list[tuple[str, str]]:
    meta = shown.run.meta
    model = meta["model"]
    return [
        ("model", model["class"]),
        ("fingerprint", model["fingerprint"]),
        ("built by", model["spec"] or "Python, not recorded"),
        ("weights", model["weights"] or "as built"),
        ("passes T", f"{meta['passes']:,}"),
        ("seed", str(meta["seed"])),
        ("masks", meta["masks"]),
        ("likelihood", f"{meta['likelihood']} of {meta['input'].replace('_', '-')}"),
    ]


def _on_what(shown: Shown) -> list[tuple[str, str]]:
    run, pool = shown.run, shown.pool
    meta, plan, rate = run.meta, run.meta["plan"], run.items_per_second
    form = f" of {pool.dtype} {' × '.join(map(str, pool.item_shape))}" if pool is not None else ""
    return [
        ("pool", meta["pool"]["path"]),
        ("fingerprint", meta["pool"]["fingerprint"]),
        ("items", f"{run.n:,}{form}"),
        ("scored", f"{run.scored:,}, {len(run.nonfinite_ids):,} of them without a finite score"),
        ("device", f"{meta['device']}, {meta['dtype']}, {count(meta['threads'], 'thread')}"),
        ("step", f"{plan['items']:,} items × {plan['passes']:,} passes, path {plan['path']}"),
        (
            "time",
            f"{duration(run.seconds)}, {rate:,.1f} items/s, {rate * meta['passes']:,.0f} passes/s; started {_moment(meta['created'])}",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in meta["versions"].items())),
    ]


def _moment(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


# ---- plots -----------------------------------------------------------------------------------------------------------


def _score(shown: Shown, name: str, spread: stats.Spread) -> dict[str, Any]:
    """A score's histogram and its row in the table."""
    picked = shown.selected[name]
    cut = float(picked.min()) if name == shown.by and len(picked) else None
    cells = [spread.lo, spread.mean, *spread.quantiles.values(), spread.hi]
    return {
        "title": title(name),
        "text": _formula(name, shown.run.meta["likelihood"]),
        "plot": histogram(spread, picked, cut, title(name)),
        "row": [number(float(cell)) for cell in [*cells, *([picked.mean()] if len(picked) else [])]],
    }


def _formula(name: str, likelihood: str) -> str:
    """The line of the catalog, without the variant of another likelihood; nothing of a score that is not registered here."""
    if name not in SCORES:
        return ""
    text, _, gaussian = SCORES[name].text.partition("; gaussian: ")
    return gaussian if gaussian and likelihood == "gaussian" else text


def _decomposition(shown: Shown) -> dict[str, Any] | None:
    """Expected entropy against BALD, as far as the stored scores tell: the first is also entropy - BALD."""
    run, selected = shown.run, shown.selected
    other = next((name for name in ("expected_entropy", "entropy") if name in selected), None)
    if "bald" not in selected or other is None:
        return None

    def pair(stored: np.ndarray, bald: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (stored if other == "expected_entropy" else np.maximum(stored - bald, 0)), bald

    cloud = stats.cloud(lambda: map(pair, stream(run, other)(), stream(run, "bald")()))
    if cloud is None:
        return None
    x, y = pair(selected[other], selected["bald"])
    return {
        "title": "Two kinds of doubt",
        "text": "Left to right: doubt that more labels cannot remove. Upwards: doubt that they can. Dotted: equal entropy.",
        "plot": plane(cloud, x, y, ("expected entropy, nats", "BALD, nats"), corners=True),
    }


def _values_and_score(shown: Shown) -> dict[str, Any] | None:
    run, by = shown.run, shown.by
    cloud = stats.cloud(lambda: zip(stream(run, "prediction")(), stream(run, by)(), strict=True))
    if cloud is None:
        return None
    x, y = shown.selected["prediction"], shown.selected[by]
    return {
        "title": "Where the model is unsure",
        "text": f"{title(by)} over the predicted value.",
        "plot": plane(cloud, x, y, ("predicted value", title(by)), corners=False),
    }


def _value_mix(shown: Shown) -> dict[str, Any] | None:
    spread = stats.spread(stream(shown.run, "prediction"))
    if spread is None:
        return None
    plot = histogram(spread, shown.selected["prediction"], None, "predicted value")
    return {
        "title": "Predicted values",
        "text": "In the pool" + (" and in the selection." if len(shown.ids) else "."),
        "plot": plot,
    }


def _class_mix(shown: Shown) -> dict[str, Any] | None:
    k = len(shown.ids)
    pool = stats.class_counts(stream(shown.run, "prediction"))
    if not pool.any():
        return None
    pool = np.pad(pool, (0, max(0, len(shown.classes or ()) - len(pool))))
    text = "What the model takes the items for, in the pool" + (" and in the selection." if k else ".")
    if len(pool) > MAX_CLASSES:
        text += f" Of {len(pool):,} classes, the {MAX_CLASSES} whose shares {'differ most' if k else 'are largest'}."
    bars = class_mix(pool, np.bincount(shown.selected["prediction"], minlength=len(pool)), shown.class_name)
    return {"title": "Predicted classes", "text": text, "bars": bars}
