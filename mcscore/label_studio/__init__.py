"""To Label Studio and back: tasks of a run into a project, labels onto the items of its pool."""

from .exports import Export, from_project, read_export
from .pull import Pulled, take_in
from .push import Pushed, push
from .server import Server

__all__ = ["Export", "Pulled", "Pushed", "Server", "from_project", "push", "read_export", "take_in"]
