"""pydantic's errors in the words of the person who wrote the file: which key, what is allowed, what was written."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from dlpipe.spec.base import FAMILIES, Component, Example, Spec
from dlpipe.spec.problems import Mark, closest, cropped, did_you_mean, listed
from dlpipe.spec.source import Node, described, scalar

Path = tuple[str | int, ...]
Explained = tuple[Path, Mark, str, str | None]
"""Path in the document, place, message, hint."""


def explain(error: ValidationError, model: type[BaseModel], root: Node, at: Path = ()) -> list[Explained]:
    """Every error in words. `root` is the node that was validated, `at` its path in the document, for the messages."""
    errors: list[dict[str, Any]] = [dict(each) for each in error.errors(include_url=False)]
    found = [(each["type"], _explained(each, model, root, at)) for each in errors if not _short_of_sound_items(each)]
    return [each for kind, each in found if kind != "missing" or not _misspelt(each[0], found)]


def path_text(path: Path) -> str:
    """As it is written in patches: `pretrain.2.optimizer`."""
    return cropped(".".join(map(str, path)), 100) if path else "the experiment"


def _explained(error: dict[str, Any], model: type[BaseModel], root: Node, at: Path) -> Explained:
    kind = error["type"]
    missing = kind in ("extra_forbidden", "missing")
    path, annotation, metadata, owner = _resolve(model, error["loc"], keep_last=missing)
    if kind == "misuse":
        who = f"{path_text(at + path)}{_kind_of(root, path)}: " if at + path else ""
        path += tuple(error["ctx"]["field"])
        return at + path, _key_mark(root, path), who + error["ctx"]["message"], None
    if kind == "extra_forbidden":
        return _unknown_key(path, owner, root, at)
    if kind == "missing":
        inside = path[:-1]
        whom = f"{path_text(at + inside)}{_kind_of(root, inside)}"
        hint = _description(owner, str(path[-1]))
        return at + path, _key_mark(root, inside), f"{whom} lacks the key '{path[-1]}'", hint
    if error["loc"][-1:] == ("[key]",):
        return _unknown_name(path, annotation, root, at)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _wrong_kind(path, _family(annotation), root, at)
    if (
        kind == "literal_error"
        and path
        and path[-1] == "kind"
        and isinstance(owner, type)
        and issubclass(owner, Component)
    ):
        return _wrong_kind(path[:-1], owner.family, root, at)
    node = _find(root, path)
    written = node.data if node is not None else error["input"]
    message = f"{path_text(at + path)} must be {expected(annotation, metadata)}, not {described(written)}"
    mark = node.mark if node is not None else _key_mark(root, path)
    return at + path, mark, message, _advice(written, annotation)


def _short_of_sound_items(error: dict[str, Any]) -> bool:
    """Whether a list is too short only because wrong items, each an error of its own, do not count for pydantic."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _misspelt(path: Path, found: list[tuple[str, Explained]]) -> bool:
    """Whether the key that is missing is the one that an unknown key beside it was meant to be."""
    beside = (other[0] for kind, other in found if kind == "extra_forbidden" and other[0][:-1] == path[:-1])
    return any(closest(str(other[-1]), [str(path[-1])]) for other in beside)


def _unknown_key(path: Path, owner: Any, root: Node, at: Path) -> Explained:
    inside, key = path[:-1], str(path[-1])
    known = field_names(owner)
    message = f"unknown key '{cropped(key)}' in {path_text(at + inside)}{_kind_of(root, inside)}"
    if closest(key, known) is None and issubclass(owner, Component):
        others = [kind for kind, other in FAMILIES[owner.family].items() if key in field_names(other)]
        if others:
            return at + path, _key_mark(root, path), message, f"{key} is a key of {listed(others)}"
    return at + path, _key_mark(root, path), message, did_you_mean(key, known, "it may have {}")


def _unknown_name(path: Path, names: Any, root: Node, at: Path) -> Explained:
    """A key of a mapping whose keys are chosen from a list."""
    inside, key = path[:-1], str(path[-1])
    hint = did_you_mean(key, map(str, get_args(names)), "it may have {}", "or")
    return at + path, _key_mark(root, path), f"unknown key '{cropped(key)}' in {path_text(at + inside)}", hint


def _wrong_kind(path: Path, family: str, root: Node, at: Path) -> Explained:
    kinds = list(FAMILIES[family])
    node = _find(root, (*path, "kind"))
    if node is None:
        message = f"{path_text(at + path)} lacks its kind"
        return at + path, _key_mark(root, path), message, f"it may be {listed(kinds, 'or')}"
    if isinstance(node.data, str):
        hint = did_you_mean(node.data, kinds, "it may be {}", "or")
        return at + path, node.mark, f"unknown kind {described(node.data)} of {family}", hint
    return at + path, node.mark, f"a kind must be {listed(kinds, 'or')}, not {described(node.data)}", None


def field_names(model: Any) -> list[str]:
    """The keys that a record may have, as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()] if _is_model(model) else []


def expected(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a field takes: `a whole number above 0`, `one of sgd and adam`, `true or false`."""
    base, metadata = _peeled(annotation, metadata)
    if _is_union(base):
        members = [member for member in get_args(base) if member is not types.NoneType]
        union = " or ".join(dict.fromkeys(expected(member) for member in members))
        union = "a mapping with a 'kind'" if _family(base) else union
        return f"{union}, or null" if types.NoneType in get_args(base) else union
    if _is_model(base):
        if issubclass(base, Component):
            return "a mapping with a 'kind'"
        return f"a mapping such as {base.example}" if issubclass(base, Spec) and base.example else "a mapping"
    origin = get_origin(base)
    if origin is Literal:
        values = [str(value) for value in get_args(base)]
        return listed(values, "or") if len(values) < 3 else f"one of {listed(values, 'or')}"
    if origin in (tuple, list):
        return _list_of(get_args(base), metadata)
    if origin is dict:
        return next((f"a mapping such as {each.text}" for each in metadata if isinstance(each, Example)), "a mapping")
    if base is str:
        return "a text that is not empty" if any(getattr(m, "min_length", 0) for m in metadata) else "a text"
    words = {bool: "true or false", int: "a whole number", float: "a number"}.get(base, "another value")
    return words + _bounds(metadata)


PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "a text": "texts", "a mapping": "mappings"}


def _list_of(items: Sequence[Any], metadata: Sequence[Any]) -> str:
    """`a list of whole numbers above 0`, `a list of one or more texts`; of what has no plural `a list`."""
    item = expected(items[0]) if items else ""
    plural = next((many + item.removeprefix(one) for one, many in PLURALS.items() if item.startswith(one)), "")
    filled = any(getattr(each, "min_length", 0) for each in metadata)
    if not plural:
        return "a list that is not empty" if filled else "a list"
    return f"a list of {'one or more ' if filled else ''}{plural}"


def _bounds(metadata: Sequence[Any]) -> str:
    names = ("gt", "ge", "lt", "le")
    values = {name: getattr(each, name) for each in metadata for name in names if hasattr(each, name)}
    bounds = {name: f"{value:g}" for name, value in values.items() if value is not None}
    upper = f"below {bounds['lt']}" if "lt" in bounds else f"up to {bounds['le']}" if "le" in bounds else ""
    if "gt" in bounds:
        return f" above {bounds['gt']}" + (f" and {upper}" if upper else "")
    if "ge" in bounds:
        return f", {bounds['ge']} or above" + (f" and {upper}" if upper else "")
    return f" {upper}" if upper else ""


def _advice(written: Any, annotation: Any) -> str | None:
    base = _without_none(annotation)
    if base in (int, float, bool) and isinstance(written, str):
        try:
            value = scalar(written.replace(",", "").replace("_", "").strip())
        except (ValueError, IndexError):
            return None
        if isinstance(value, int | float):
            return f"write it without quotes: {written}" if str(value) == written else f"write {described(value)}"
        if base is bool and written.lower() in ("yes", "on", "no", "off"):
            return f"write {'true' if written.lower() in ('yes', 'on') else 'false'}"
    if isinstance(written, str) and written.lower() == "none":
        return "write null"
    if get_origin(base) is Literal and isinstance(written, str):
        return did_you_mean(written, map(str, get_args(base)), "")
    if base is str and isinstance(written, int | float):
        return f'put it in quotes: "{described(written)}"'
    return None


def _resolve(model: Any, location: Sequence[str | int], *, keep_last: bool) -> tuple[Path, Any, Sequence[Any], Any]:
    """Path in the document (pydantic's location less the tags of unions), the type there with its constraints, and the
    record that holds it."""
    path: list[str | int] = []
    annotation, owner = model, model
    metadata: Sequence[Any] = ()
    for index, element in enumerate(location):
        if element == "[key]":
            continue
        if location[index + 1 :] == ("[key]",) and get_origin(_without_none(annotation)) is dict:
            annotation = get_args(_without_none(annotation))[0]
            path.append(element)
            continue
        annotation, metadata, owner, tag = _step(annotation, metadata, owner, element)
        last = index == len(location) - 1
        if not tag or (last and keep_last):
            path.append(element)
    return tuple(path), annotation, metadata, owner


def _step(
    annotation: Any, metadata: Sequence[Any], owner: Any, element: str | int
) -> tuple[Any, Sequence[Any], Any, bool]:
    """The type, constraints and record one element further, and whether the element is the tag of a union."""
    base, metadata = _peeled(annotation, metadata)
    if _is_union(base):
        members = [member for member in get_args(base) if member is not types.NoneType]
        if len(members) == 1:
            return _step(members[0], (), owner, element)
        chosen = next((member for member in members if element in _tags(member)), None)
        return (Any, (), owner, False) if chosen is None else (chosen, (), owner, True)
    if _is_model(base):
        field = _field(base, element)
        return (field.annotation, field.metadata, base, False) if field is not None else (Any, (), base, False)
    arguments = get_args(base)
    if get_origin(base) in (tuple, list) and arguments:
        return arguments[0], (), owner, False
    if get_origin(base) is dict:
        return arguments[1], (), owner, False
    return base, metadata, owner, False


def _peeled(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """The type without `Annotated`, and all of its metadata."""
    found = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        found += more
    flat = [part for each in found for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
    return annotation, tuple(flat)


def _tags(member: Any) -> list[str]:
    base, _ = _peeled(member, ())
    tags = (
        [each.tag for each in get_args(member)[1:] if isinstance(each, Tag)] if get_origin(member) is Annotated else []
    )
    if _is_model(base) and "kind" in base.model_fields:
        tags += get_args(base.model_fields["kind"].annotation)
    return tags


def _family(annotation: Any) -> str:
    """The family of a union of kinds (or of its only kind); empty for other types."""
    base = _without_none(annotation)
    for member in get_args(base) if _is_union(base) else (base,):
        peeled, _ = _peeled(member, ())
        if _is_model(peeled) and issubclass(peeled, Component):
            return peeled.family
    return ""


def _without_none(annotation: Any) -> Any:
    base, _ = _peeled(annotation, ())
    if _is_union(base):
        members = [member for member in get_args(base) if member is not types.NoneType]
        if len(members) == 1:
            return _peeled(members[0], ())[0]
    return base


def _is_union(base: Any) -> bool:
    return get_origin(base) in (Union, types.UnionType)


def _is_model(base: Any) -> bool:
    return isinstance(base, type) and issubclass(base, BaseModel)


def _field(model: type[BaseModel], element: str | int) -> FieldInfo | None:
    for name, field in model.model_fields.items():
        alias = field.validation_alias or field.alias
        if element == (name if alias is None or isinstance(alias, AliasChoices) else alias):
            return field
    return None


def _description(owner: Any, name: str) -> str | None:
    field = _field(owner, name) if _is_model(owner) else None
    if field is None:
        return None
    return f"{name}: {field.description or expected(field.annotation, field.metadata)}"


def _kind_of(root: Node, path: Path) -> str:
    node = _find(root, (*path, "kind"))
    return f" ({cropped(node.data)})" if node is not None and isinstance(node.data, str) else ""


def _find(root: Node, path: Path) -> Node | None:
    node: Node | None = root
    for part in path:
        node = node.get(part) if node is not None else None
    return node


def _key_mark(root: Node, path: Path) -> Mark:
    """The place of the key at the end of a path (an item of a list: its value), or of the nearest that is written."""
    mark, node = root.mark, root
    for part in path:
        below = node.get(part)
        if below is None:
            break
        mark = node.keys.get(part, below.mark) if isinstance(part, str) else below.mark
        node = below
    return mark
