"""What a data set consists of: its files, where each comes from, and the sha256 that says it is the right one.

Everything here is looked at while planning: it imports neither numpy nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dlpipe.errors import StepError
from dlpipe.spec import sequences as _declared  # noqa: F401 - importing it registers the kinds
from dlpipe.spec.base import FAMILIES
from dlpipe.spec.datasets import DatasetSpec

if TYPE_CHECKING:
    from dlpipe.datasets.examples import Examples
    from dlpipe.datasets.sequences import SequenceExamples


class DataError(StepError):
    """Data that is missing, wrong or hostile, or a request that it cannot meet; the message says what to do."""


class RequestError(DataError):
    """A request that no data could meet, such as a path that does not exist: for the user to correct."""

    exit_code = 2


@dataclass(frozen=True)
class Source:
    """One file of a data set.

    It is at one of `urls`, or is the `member` of an archive there, or a file of an installed Python package
    (`package`: `(name, path inside it)`), or the user's own file at `path`. `name` is what it is called in the
    artifact and on a mirror; `sha256` and `size` (bytes) are of the file itself, not of the archive around it.
    """

    name: str
    sha256: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    member: str | None = None
    package: tuple[str, str] | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        name = PurePosixPath(self.name)
        if not self.name or name.is_absolute() or ".." in name.parts or "\\" in self.name:
            raise ValueError(f"a source's name is a path inside the artifact, not {self.name!r}")
        if len(self.sha256) != 64:
            raise ValueError(f"{self.name}: {self.sha256!r} is not a sha256 in hexadecimal digits")


class Dataset(Protocol):
    """What a dataset spec's implementation offers; a class that is never instantiated."""

    terms: ClassVar[str]
    """Under which terms the data may be used, and whose work it is."""

    default_test: ClassVar[int | None]
    """Test examples taken from the source's training part if the spec does not say; None if the source comes split."""

    @staticmethod
    def sources(spec: Any) -> tuple[Source, ...]:
        """The files, without numpy or the network. Raises RequestError for a file of the user's that is missing."""

    @staticmethod
    def parse(folder: Path, spec: Any) -> Examples | SequenceExamples:
        """The examples in the verified files of `folder`; sequences come split already.

        Raises DataError naming the file and what is wrong.
        """


def dataset_spec(document: Mapping[str, Any]) -> DatasetSpec:
    """The spec out of its own dump, by its kind. Raises DataError for a kind that is not registered."""
    known = FAMILIES["dataset"]
    kind = document.get("kind") if isinstance(document, Mapping) else document
    if kind not in known:
        raise DataError(f"no dataset kind {kind!r}; there are {', '.join(sorted(known))}")
    spec = known[kind].model_validate(document)
    assert isinstance(spec, DatasetSpec)
    return spec
