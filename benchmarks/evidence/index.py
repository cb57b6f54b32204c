"""The page of all results: one table, and a picture of each experiment."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from mcscore.atomic import replaced

from . import EXPERIMENTS


def write_index(folder: Path) -> Path:
    """Write index.md from the results that are there; experiments without results are named as such."""
    found, missing = {}, []
    for name in EXPERIMENTS:
        path = folder / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
        else:
            missing.append(name)
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
        for row in importlib.import_module(f".{name}", __package__).rows(results):
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
            f"`{made['command']}`: {cost}, {where}, {made['date']}.",
        ]
    lines += ["", "## Where we fall short, and why", "", *(_failed(found) or ["Every claim holds."])]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    path = folder / "index.md"
    with replaced(path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path


def _failed(found: dict[str, Any]) -> list[str]:
    """The claims that do not hold, and behind those of an experiment what is known of the cause."""
    lines = []
    for name, results in found.items():
        failed = [f"- {name}: {claim['text']}" for claim in results["claims"] if not claim["holds"]]
        why = getattr(importlib.import_module(f".{name}", __package__), "WHY", "")
        lines += [*failed, *([f"    - {why}"] if failed and why else [])]
    return lines
