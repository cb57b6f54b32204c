"""A Label Studio server, by its SDK: projects, tasks, uploaded files; each failure becomes one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..errors import RunError, first_line
from ..run.export.label_studio import CONTROL

AT_ONCE = 25  # tasks, or files, in one request: Django, below Label Studio, takes at most 100 files, and photographs have some MB
_PAGE = 200  # tasks in one answer
_SECONDS = 120  # for one request


@dataclass(frozen=True)
class Project:
    """A project: its id, its title, and whether it was made now."""

    id: int
    title: str
    made: bool


class Server:
    """A Label Studio server.

    Args:
        url: where it is, such as http://localhost:8080.
        token: a personal access token, or a legacy token.

    Raises:
        RunError: label-studio-sdk is not installed; the token has expired. Each method: the server cannot be reached, refuses the
            token, or refuses what it is given.
    """

    def __init__(self, url: str, token: str) -> None:
        try:
            import label_studio_sdk
        except ImportError:
            raise RunError(
                "Label Studio is reached with its SDK: pip install 'mcscore[label-studio]'. Without it, `mcscore export --format "
                "label-studio` writes tasks to import, and `mcscore label-studio pull --file` reads exports"
            ) from None
        self.url = url.rstrip("/")
        with self._asked():
            sdk: Any = label_studio_sdk
            self._client = sdk.LabelStudio(base_url=self.url, api_key=token, timeout=_SECONDS)

    def project(self, name: str, config: str | None = None) -> Project:
        """Find a project by its id or title; with a labeling configuration, one that is missing is made, and one without any gets it.

        Raises:
            RunError: there is none, several have the title, or its configuration does not name what mcscore labels.
        """
        with self._asked():
            if name.isascii() and name.isdigit():
                found = [self._client.projects.get(int(name))]
            else:
                found = [each for each in self._client.projects.list() if each.title == name]
            if not found and config is not None:
                made = self._client.projects.create(title=name, label_config=config)
                return Project(made.id, made.title, True)
            if len(found) != 1:
                ids = ", ".join(str(each.id) for each in found)
                raise RunError(
                    f"{len(found)} projects at {self.url} are called {name!r} (ids {ids}): name one by its id"
                    if found
                    else f"{self.url} has no project {name!r}; `mcscore label-studio push` makes one"
                )
            (project,) = found
            if config is not None and not choices_of(project.label_config or ""):
                if list(ElementTree.fromstring(project.label_config or "<View/>")):
                    raise RunError(
                        f"project {project.id} ({project.title}) has no control of the name {CONTROL!r} in its labeling configuration: "
                        "take another project, or give it the configuration that `mcscore export --format label-studio` writes"
                    )
                self._client.projects.update(project.id, label_config=config)
            elif config is not None and (missing := choices_of(config) - choices_of(project.label_config or "")):
                raise RunError(
                    f"project {project.id} ({project.title}) does not have the choices {', '.join(sorted(missing))} in its labeling "
                    "configuration: add them, or take another project"
                )
        return Project(project.id, project.title, False)

    def tasks(self, project: int, *, annotated: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the tasks of a project: id, data and, of annotated ones, annotations."""
        asked = {"only_annotated": True, "fields": "all"} if annotated else {"fields": "task_only"}
        with self._asked():
            for task in self._client.tasks.list(project=project, page_size=_PAGE, **asked):
                found = task.model_dump()
                yield {"id": found["id"], "data": found["data"], "annotations": found.get("annotations") or []}

    def add(self, project: int, tasks: Sequence[dict[str, Any]]) -> None:
        """Add at most AT_ONCE tasks to a project."""
        with self._asked():
            self._client.projects.import_tasks(project, request=tasks)

    def upload(self, project: int, files: Sequence[Path]) -> dict[str, str]:
        """Upload at most AT_ONCE pictures, without a task for each, and return the address of each by its name."""
        addresses = dict[str, str]()
        with self._asked():
            # The SDK has no method for it.
            answer = self._client._client_wrapper.httpx_client.request(
                f"api/projects/{project}/import",
                method="POST",
                params={"commit_to_project": "false"},
                files={file.name: (file.name, file.read_bytes()) for file in files},
                force_multipart=True,
            )
            if answer.status_code >= 300:
                raise RunError(f"{self.url} does not take pictures: {answer.status_code}, {answer.text[:300]}")
            for id in answer.json()["file_upload_ids"]:
                place = self._client.files.get(id).file
                addresses[place.rpartition("/")[2].partition("-")[2]] = f"/data/{place}"
        if missing := {file.name for file in files} - addresses.keys():
            raise RunError(f"{self.url} has not kept the pictures {', '.join(sorted(missing)[:5])}")
        return addresses

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what the SDK raises into a sentence."""
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        try:
            yield
        except ApiError as error:
            said = error.body.get("detail") if isinstance(error.body, dict) else None
            why = f"{said or error.body}"[:300]
            if isinstance(error.body, dict) and error.body.get("validation_errors"):
                why = f"{error.body['validation_errors']}"[:300]
            hint = ""
            if error.status_code == 401:
                hint = ". Make a token under Account & Settings, Personal Access Token"
            raise RunError(f"Label Studio at {self.url} answers {error.status_code}: {why}{hint}") from error
        except httpx.HTTPError as error:
            raise RunError(f"Label Studio at {self.url} cannot be reached: {first_line(error)}") from error


def choices_of(config: str) -> set[str]:
    """Return the choices of the control that mcscore reads, or its kind if it has none; an empty set if there is no such control.

    >>> sorted(choices_of('<View><Choices name="label"><Choice value="a"/><Choice value="b"/></Choices></View>'))
    ['a', 'b']
    >>> choices_of('<View><Number name="label"/></View>'), choices_of("<View/>")
    ({'<Number>'}, set())
    """
    if not config.strip():
        return set()
    for tag in ElementTree.fromstring(config).iter():
        if tag.get("name") == CONTROL:
            return {each.get("value", "") for each in tag.iter("Choice")} or {f"<{tag.tag}>"}
    return set()
