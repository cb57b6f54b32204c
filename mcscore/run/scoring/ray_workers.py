"""``RayWorkers``: what the actors of a Ray cluster that score a run are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import RunError
from .orders import Outfit, Team

_CPUS = 4.0  # of a worker, if nobody said how many


@dataclass(frozen=True)
class RayWorkers:
    """Actors of a Ray cluster that score a run, each in a process of its own. The calling process commits what they score.

    Pool, model and weights must be where every node finds them: on storage that the nodes share, or the pool at a URL. mcscore, torch and
    NumPy must be there in the same versions. This process needs no GPU, and the run directory is only its own.

    Attributes:
        address: "auto": the cluster that this process is connected to, that RAY_ADDRESS names, or that this machine is a node of.
            "local": a cluster of this machine alone, for this run. Or "HOST:PORT" of the head node.
        max_workers: how many there are at most; default: as many as the nodes have room for now. With an autoscaler, up to how many it is
            asked for.
        num_gpus: GPUs of each, also a part of one; default: one if the model is to be on a GPU, or if the cluster has any.
        num_cpus: CPUs that are set aside for each; default: as many as it has threads.
        resources: others that each needs, by name.
        timeout: seconds after which an actor that is still at one span is stopped; default: 10 minutes, or 20 times as long as the longest
            span so far.
        threads_each: threads of each in a new run; default: its share of the CPUs of a node, at most 4. A run that is resumed keeps its
            number.
        runtime_env: Ray's, of each: variables, packages.

    Raises:
        RunError: a number is not positive.
    """

    address: str = "auto"
    max_workers: int | None = None
    num_gpus: float | None = None
    num_cpus: float | None = None
    resources: Mapping[str, float] | None = None
    timeout: float | None = None
    threads_each: int | None = None
    runtime_env: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("max_workers", "timeout", "threads_each"):
            if (given := getattr(self, name)) is not None and given <= 0:
                raise RunError(f"Ray workers need a positive {name}, got {given}")
        for name in ("num_gpus", "num_cpus"):
            if (given := getattr(self, name)) is not None and given < 0:
                raise RunError(f"Ray workers cannot have {name}={given}")

    def size(self, device: str | None) -> int:
        """How many workers there are."""
        if self.max_workers is not None:
            return self.max_workers
        cluster = self._cluster()
        needs = self._needs(device, self.threads(device))
        if not (n := cluster.rooms(needs)):
            raise RunError(
                f"no node of the Ray cluster has what a worker needs, {cluster.text(needs)}: they have "
                f"{'; '.join(map(cluster.text, cluster.nodes()))}. Let it need less, or give max_workers (--max-workers) where the cluster "
                "grows by itself"
            )
        return n

    def threads(self, device: str | None) -> int:
        """Threads of each, for a new run."""
        return self.threads_each or max(1, int(self._share(device) if self.num_cpus is None else self.num_cpus))

    def team(self, outfit: Outfit, device: str | None) -> Team:
        """The actors; none is started yet."""
        self._cluster()
        from .ray_team import RayTeam

        on = "cuda" if self._gpus(device) else "cpu"
        return RayTeam(outfit, on, self._needs(device, outfit.threads), self.runtime_env)

    def _needs(self, device: str | None, threads: int) -> dict[str, float]:
        cpus = min(float(threads), self._share(device)) if self.num_cpus is None else self.num_cpus
        return {"CPU": cpus, "GPU": self._gpus(device), **(self.resources or {})}

    def _gpus(self, device: str | None) -> float:
        """GPUs of each worker."""
        if device not in (None, "cpu", "cuda"):
            raise RunError(f"Ray gives each worker its GPU: device must be 'cuda' or 'cpu', not {device!r}")
        gpus = self.num_gpus
        if gpus is None:
            wanted = device == "cuda" or (device is None and any(node.get("GPU") for node in self._cluster().nodes()))
            gpus = 1.0 if wanted else 0.0
        if device == "cuda" and not gpus:
            raise RunError("workers on a GPU need num_gpus above 0")
        return 0.0 if device == "cpu" else gpus

    def _share(self, device: str | None) -> float:
        """CPUs of each worker: so many that all GPUs of every node can be used."""
        gpus = self._gpus(device)
        fitting = [node for node in self._cluster().nodes() if node.get("GPU", 0) >= gpus]
        shares = [node.get("CPU", 0.0) / max(1.0, node.get("GPU", 0) / gpus if gpus else 1.0) for node in fitting]
        return max(1.0, min([_CPUS, *(float(int(share)) for share in shares if share)]))

    def _cluster(self) -> Any:
        """The module that knows the cluster, connected."""
        try:
            from . import ray_cluster
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise RunError("Ray is not installed: pip install 'mcscore[ray]'") from error
        ray_cluster.connect(self.address)
        return ray_cluster
