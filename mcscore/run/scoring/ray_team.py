"""A team of actors in a Ray cluster. Of Ray only actors are used, and objects for what they are told and answer.

One call of ``Actor.answers`` is always on its way to each, which returns when there is something to tell. Ray does not restart an
actor: whoever hands out the spans does. An actor for which the cluster has no room yet is not dead; it begins when the cluster has grown.
"""

from __future__ import annotations

import pickle
import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import ray
from ray.exceptions import ActorUnavailableError, RayError, RuntimeEnvSetupError

from ...errors import RunError
from . import ray_cluster
from .orders import Ended, Failed, Order, Outfit, Reply
from .ray_actor import Actor, comparable

_SLOW = 60.0  # seconds without any worker, after which that is said


@dataclass
class _Member:
    actor: Any
    answers: Any  # the reference of what it answers next


class RayTeam:
    """Actors of the cluster that this process is connected to.

    Args:
        outfit: what each needs to begin.
        device: of each, "cpu" or "cuda".
        needs: resources of each, by Ray's names: "CPU", "GPU" and others.
        runtime_env: Ray's, of each.
    """

    def __init__(
        self, outfit: Outfit, device: str, needs: Mapping[str, float], runtime_env: Mapping[str, Any] | None
    ) -> None:
        environment = dict(runtime_env or {})
        # As a process of ``Workers`` has it. Ray would say 1 otherwise, or the number of CPUs that are set aside.
        environment["env_vars"] = {"OMP_NUM_THREADS": str(outfit.threads)} | environment.get("env_vars", {})
        others = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
        self._kind = ray.remote(
            num_cpus=needs.get("CPU", 0),
            num_gpus=needs.get("GPU", 0),
            resources=others,
            runtime_env=environment,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"answers": 1},
        )(Actor)
        self._needs, self._device = needs, device
        self._outfit = ray.put(pickle.dumps(outfit))  # once for all, as the model may be in it
        self._members: dict[int, _Member] = {}
        self._begun = 0
        self._waiting_since: float | None = time.monotonic()
        ray_cluster.join()

    def begin(self) -> int:
        """Ask for an actor and return its number."""
        actor = self._kind.remote(self._outfit, self._device, comparable())
        self._begun += 1
        self._members[self._begun] = _Member(actor, _ask(actor))
        return self._begun

    def send(self, worker: int, order: Order) -> None:
        """Give an actor an order. If it is dead, ``wait`` tells."""
        if worker in self._members:
            self._members[worker].actor.take.remote(pickle.dumps(order))

    def wait(self, seconds: float) -> list[tuple[int, Reply]]:
        """Return what actors have answered.

        Raises:
            RunError: the connection to the cluster is lost.
        """
        self._say_if_slow()
        numbers = {member.answers: number for number, member in self._members.items()}
        if not numbers:
            time.sleep(seconds)
            return []
        try:
            ready, _ = ray.wait(list(numbers), num_returns=1, timeout=seconds)
            if ready:
                ready, _ = ray.wait(list(numbers), num_returns=len(numbers), timeout=0)
        except RayError as error:
            _lost(error)
        return [(numbers[answers], reply) for answers in ready for reply in self._received(numbers[answers])]

    def _received(self, worker: int) -> list[Reply]:
        member = self._members[worker]
        try:
            replies: list[Reply] = pickle.loads(ray.get(member.answers))
        except RayError as error:
            del self._members[worker]
            ray.kill(member.actor, no_restart=True)  # it may be alive, if only an answer is lost
            return [reply_of(error)]
        self._waiting_since = None
        member.answers = _ask(member.actor)
        return replies

    def _say_if_slow(self) -> None:
        if self._waiting_since is not None and time.monotonic() - self._waiting_since > _SLOW:
            self._waiting_since = None
            warnings.warn(
                f"no worker has its model after {_SLOW:.0f} s. Each needs {ray_cluster.text(self._needs)}; the cluster has "
                f"{ray_cluster.text(ray.cluster_resources())}; free: {ray_cluster.text(ray.available_resources())}. Where it "
                "does not grow by itself, let a worker need less: RayWorkers(num_cpus=..., num_gpus=...)",
                stacklevel=2,
            )

    def end(self, worker: int) -> None:
        """Kill an actor."""
        if worker in self._members:
            ray.kill(self._members[worker].actor, no_restart=True)

    def close(self) -> None:
        """Kill all actors, and leave the cluster if this process was connected for them."""
        for member in self._members.values():
            ray.kill(member.actor, no_restart=True)
        self._members.clear()
        ray_cluster.leave()


def _ask(actor: Any) -> Any:
    """The reference of what an actor answers next."""
    return actor.answers.options(concurrency_group="answers").remote()


def _lost(error: RayError) -> NoReturn:
    raise RunError(f"the connection to the Ray cluster is lost: {error}") from error


def reply_of(error: RayError) -> Ended | Failed:
    """What an actor's death, as Ray tells it, means: that it failed where it never began, so that another would fail, too."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if isinstance(error, RuntimeEnvSetupError):
        return Failed("RunError", (f"Ray could not make the runtime_env of the workers: {' '.join(lines[:3])}",))
    if getattr(error, "actor_init_failed", False):
        node = re.search(r"ip=([^,)\s]+)", str(error))
        where = f" on the node {node[1]}" if node else ""
        return Failed(
            "RunError",
            (
                f"no worker can begin{where}: {lines[-1]}. mcscore must be installed on all nodes; "
                "RayWorkers(runtime_env={'pip': [...]}) does that",
            ),
        )
    if isinstance(error, ActorUnavailableError):
        return Ended("Ray: it cannot be reached")
    found = re.search(r"(?:dead|died) because (?:of )?(.*?)(?: Worker exit type|\. |\.?$)", " ".join(lines))
    return Ended(f"Ray: {found[1]}" if found else f"Ray: {lines[0] if lines else type(error).__name__}")
