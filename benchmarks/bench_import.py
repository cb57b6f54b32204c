"""Import of JPEGs, against decoding and resizing alone in as many processes, which shows the cost of storing.

    python -m pytest benchmarks/bench_import.py -s

The images are made once, 500 x 375 pixels and about 70 kB each, as those of ImageNet. The time of both sides includes the
start of their processes. They take turns, and the best time of each counts, as other load only adds time. A second
benchmark compares threads with processes for reading encoded pools.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore.ingest import import_images
from mcscore.pool.pictures.decode import decode

SIZE, IMAGES, DIFFERENT, ROUNDS = 224, 768, 64, 3
WORKERS = os.cpu_count() or 1


def photograph(seed: int) -> bytes:
    """Make coarse shapes with noise, which have as many bytes per pixel as a photograph, and take as long to decode."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse) + rng.normal(0, 8, (375, 500, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("photographs")
    made = [photograph(seed) for seed in range(DIFFERENT)]
    for i in range(IMAGES):
        (root / f"{i:05d}.jpg").write_bytes(made[i % DIFFERENT])
    return root


def decode_files(paths: list[Path]) -> int:
    return sum(len(decode(path.read_bytes(), SIZE)) for path in paths)


def decode_all(root: Path) -> None:
    paths = sorted(root.iterdir())
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        assert sum(pool.map(decode_files, [paths[at : at + 64] for at in range(0, IMAGES, 64)])) == 3 * IMAGES


def taken(call: Callable[[], Any]) -> tuple[float, float]:
    """Measure seconds of wall time, and of processor time of this process and its children."""
    begin, used = time.perf_counter(), _processor()
    call()
    return time.perf_counter() - begin, _processor() - used


def _processor() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in both)


@pytest.mark.parametrize("keep", [False, True], ids=["pixels", "encoded"])
def test_import(benchmark: Any, tmp_path: Path, photographs: Path, keep: bool) -> None:
    def bring_in() -> None:
        import_images(photographs, tmp_path / "pool", size=SIZE, workers=WORKERS, keep_encoded=keep)
        shutil.rmtree(tmp_path / "pool")

    times: dict[str, list[tuple[float, float]]] = {"decode": [], "import": []}
    for _ in range(ROUNDS):
        times["decode"].append(taken(lambda: decode_all(photographs)))
        times["import"].append(taken(bring_in))
    wall = {name: min(seconds for seconds, _ in runs) for name, runs in times.items()}
    used = {name: min(seconds for _, seconds in runs) for name, runs in times.items()}
    ratio, ratio_used = wall["decode"] / wall["import"], used["decode"] / used["import"]
    benchmark.extra_info.update({"import / decode": ratio, "by processor time": ratio_used})
    print(
        f"\n{IMAGES} JPEGs, {WORKERS} processes: decoding alone {IMAGES / wall['decode']:,.0f}/s, import "
        f"{IMAGES / wall['import']:,.0f}/s: {ratio:.0%} of it; by processor time {ratio_used:.0%}"
    )
    benchmark.pedantic(bring_in, rounds=1)


def test_threads_or_processes(benchmark: Any, photographs: Path) -> None:
    """Compares threads with processes for decoding; processes must send the pixels back to this one."""
    paths = sorted(photographs.iterdir())[:256]

    def pixels(part: list[Path]) -> np.ndarray:
        return np.stack([decode(path.read_bytes(), SIZE) for path in part])

    parts = [paths[at : at + 16] for at in range(0, len(paths), 16)]
    rates: dict[str, float] = {}
    with ThreadPoolExecutor(WORKERS) as threads, ProcessPoolExecutor(WORKERS, get_context("spawn")) as processes:
        list(processes.map(pixels_of, parts[:WORKERS]))  # starts the processes before the measurement
        for _ in range(ROUNDS):
            for name, pool, work in (("threads", threads, pixels), ("processes", processes, pixels_of)):
                seconds, _ = taken(lambda pool=pool, work=work: list(pool.map(work, parts)))
                rates[name] = max(rates.get(name, 0.0), len(paths) / seconds)
    print(f"\ndecoding for reading, {WORKERS} at a time: " + ", ".join(f"{k} {v:,.0f}/s" for k, v in rates.items()))
    benchmark.extra_info.update(rates)
    benchmark.pedantic(lambda: pixels(parts[0]), rounds=1)


def pixels_of(part: list[Path]) -> np.ndarray:
    return np.stack([decode(path.read_bytes(), SIZE) for path in part])
