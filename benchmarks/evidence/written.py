"""What is written of results: of each experiment NAME.json, a page and a picture; and the page of all, one table with every picture."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from mcscore.atomic import replaced

from . import EXPERIMENTS
from .experiment import UNDECIDED
from .kept import write


def write_results(results: dict[str, Any], out: Path) -> None:
    """NAME.json, NAME.md and NAME.png. What begins with "_" is for the picture alone: data are not the project's to copy."""
    out.mkdir(parents=True, exist_ok=True)
    name = results["experiment"]
    write(out / f"{name}.json", {key: value for key, value in results.items() if not key.startswith("_")})
    with replaced(out / f"{name}.png") as file:
        _page_of(name).draw(results).savefig(file, format="png", dpi=130)
    _write_page(results, out)


def write_index(folder: Path) -> Path:
    """Write index.md from the results that are there, and each one's page anew; experiments without results are named as such."""
    paths = {name: folder / f"{name}.json" for name in EXPERIMENTS}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    missing = [name for name in EXPERIMENTS if name not in found]
    for results in found.values():
        _write_page(results, folder)
    lines = [
        "# Evidence",
        "",
        "Does it save labels to ask the network? Each experiment is one command on real data, `python -m "
        "benchmarks.evidence NAME`, and goes on where it was stopped. Published figures stand beside ours. "
        "Protocol: weights are reset in each round, test predictions are averages over passes, nothing is tuned on "
        "test data, all seeds are shown, and every comparison has a permutation test over them.",
        "",
        "| experiment | what | published, or the peer's | ours | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, results in found.items():
        for row in _page_of(name).rows(results):
            lines.append(f"| [{name}]({name}.md) | {' | '.join(row.cells())} |")
    for name, results in found.items():
        made = results["made"]
        cost = f"{results['minutes']:.0f} minutes" if results["minutes"] >= 1.5 else "about a minute"
        where = " and ".join(results.get("devices", [made["machine"]]))
        lines += [
            "",
            f"## [{name}]({name}.md)",
            "",
            f"![{name}]({name}.png)",
            "",
            f"`{made['command']}` ({results['size']} size): {cost}, {where}, {made['date']}.",
        ]
    lines += ["", "## Where we fall short, and why", "", *(_failed(found) or ["Every claim holds."])]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return _write_lines(lines, folder / "index.md")


def _write_page(results: dict[str, Any], out: Path) -> None:
    name, told = results["experiment"], results["made"]
    lines = [
        f"# {name}: {_experiment(name).QUESTION}",
        "",
        f"![{name}]({name}.png)",
        "",
        _page_of(name).page(results),
        "",
        "## What was claimed, and what came of it",
        "",
        *(f"- {claim['text']}: **{claim['verdict']}** (error rate: {claim['chance']})" for claim in results["claims"]),
        "",
        "Error rate: how often the claim would not hold for as many other seeds, judged by the spread of these; above "
        f"{UNDECIDED:.0%} a claim is undecided.",
        "",
        f"Made {told['date']} by `{told['command']}` on {told['machine']}; {told['versions']}. All numbers: [{name}.json]({name}.json).",
    ]
    _write_lines(lines, out / f"{name}.md")


def _failed(found: dict[str, Any]) -> list[str]:
    """The claims that do not hold or are undecided, and behind those of an experiment what is known of the cause."""
    lines = []
    for name, results in found.items():
        short = [claim for claim in results["claims"] if claim["verdict"] != "holds"]
        lines += [f"- {name}: {claim['text']}: {claim['verdict']} (error rate: {claim['chance']})" for claim in short]
        why = getattr(_page_of(name), "WHY", "")
        lines += [f"    - {why}"] if short and why else []
    return lines


def _experiment(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)


def _page_of(name: str) -> Any:
    return importlib.import_module(f".pages.{name}", __package__)


def _write_lines(lines: list[str], path: Path) -> Path:
    with replaced(path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path
