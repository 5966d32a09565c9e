"""``Output``: where a tokenize run writes."""

import os
import re
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path, PurePath

from tokcodec.dataset.folder import ONE_FILE, DatasetFolder
from tokcodec.errors import ArgumentError, Hint, OutputError
from tokcodec.io.files import same_file
from tokcodec.io.remote import location


class Output:
    """A folder of shards, or one file, to which shards in a temporary folder are joined.

    Attributes:
        path: as the user named it.
        one_file: whether it is one file.
        shards: the folder of the shards.
        folder: the folder of the one file.
    """

    def __init__(self, path: str | Path) -> None:
        """Raise ArgumentError for the suffix of another format, OutputError for a URL that cannot
        be opened here."""
        name = PurePath(path)
        self.one_file = name.suffix == ONE_FILE
        # The name of a folder may have a dot: dataset.v2. The store of a URL is not asked.
        if (
            re.fullmatch(r"\.[a-z]{3,}", name.suffix)
            and not self.one_file
            and not str(path).endswith(os.sep)
            and not Path(path).is_dir()
        ):
            raise ArgumentError(
                f"is not a dataset: name a folder (NAME{os.sep} whatever its name), or one "
                "file.parquet",
                name=path,
            )
        self.path = location(str(path))
        self.folder = DatasetFolder(self.path.parent)
        self.shards = DatasetFolder(self.path)
        if self.one_file:
            folder = self.path.with_name(self.path.name + ".shards")
            self.shards = DatasetFolder(folder, temporary=True)

    def __truediv__(self, name: str) -> "Output":
        """A folder of shards in this folder."""
        below = copy(self)
        below.path = self.path / name
        below.folder, below.shards = DatasetFolder(self.path), DatasetFolder(below.path)
        return below

    def __str__(self) -> str:
        return str(self.path)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths that a run writes, which are not inputs."""
        return (self.path, self.shards.path)

    def check_inputs(self, sources: Sequence[str]) -> None:
        """Raise OutputError if one of the sources is the output."""
        if any(same_file(self.path, source) for source in sources):
            raise OutputError("is the input itself", name=self.path, hint=Hint.OTHER_OUTPUT)

    def is_finished(self) -> bool:
        """Whether the output is one file that exists."""
        return self.one_file and self.folder.exists(self.path.name)

    def remove_shards(self) -> None:
        for name in self.shards.shards():
            self.shards.remove(name)

    def size(self, shards: Iterable[str]) -> int | None:
        """The bytes of the one file, or of these shards; None in a store, to save requests."""
        folder = self.folder if self.one_file else self.shards
        names = [self.path.name] if self.one_file else shards
        return None if folder.is_remote else sum(map(folder.size, names))
