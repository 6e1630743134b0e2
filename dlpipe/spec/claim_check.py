"""Whether a claim speaks of axes, levels and variants that its experiment has, at a scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from dlpipe.spec.claims import Claim, Levels, own_levels
from dlpipe.spec.problems import cropped, levels_text
from dlpipe.spec.source import Node

if TYPE_CHECKING:
    from dlpipe.spec.reading import Reading


class ClaimCheck:
    """Whether a claim speaks of axes, levels and variants that there are."""

    def __init__(self, reading: Reading, node: Node, claim: Claim, axes: Mapping[str, Mapping[str, object]]) -> None:
        self.reading, self.node, self.claim, self.axes = reading, node, claim, axes

    def check(self) -> None:
        known = [self.levels(name) for name in ("where", "compare", "with")]
        known += [self.repeated(), self.growth()]
        if not all(known):
            return
        if self.claim.compare is not None and self.claim.compare == self.claim.against:
            self.reading.find(self.node.keys["with"], "compare and with are the same")
            return
        if self.overlap():
            return
        where = self.claim.settled(own_levels(self.axes)).where
        if self.left_open(where):
            return
        for name, levels in (("compare", self.claim.compare), ("with", self.claim.against)):
            self.some_variant(name, {**where, **(levels or {})})

    def left_open(self, where: Levels) -> bool:
        """Whether the claim leaves an axis out that has no level `{}` to speak of."""
        named = {*where, *self.claim.axes_named}
        left = [axis for axis in self.axes if axis not in named]
        if left:
            self.reading.find(
                self.node.mark,
                f"the claim does not say which level of '{cropped(left[0])}' it speaks of",
                "name one in where, or the axis in for_each; one left out stands for the axis's level {}",
            )
        return bool(left)

    def levels(self, name: str) -> bool:
        node = self.node.get(name)
        checked = (
            [self.reading.check_pair(axis, level, node, self.axes) for axis, level in node.items()] if node else []
        )
        return all(checked)

    def repeated(self) -> bool:
        node = self.node.get("for_each")
        if node is None or node.data is None:
            return True
        named = node.elements() or [node]
        known = [self.reading.check_axis(each.data, each.mark, self.axes) for each in named]
        return all(known)

    def growth(self) -> bool:
        node = self.node.get("grows")
        if node is None or self.claim.grows is None:
            return True
        axis, start, end = node.get("axis"), node.get("from"), node.get("to")
        assert axis is not None
        assert start is not None
        assert end is not None
        if not self.reading.check_axis(axis.data, axis.mark, self.axes):
            return False
        if self.claim.grows.start == self.claim.grows.end:
            self.reading.find(end.mark, "grows from a level to the same level")
            return False
        known = [self.reading.check_level(axis.data, level, self.axes) for level in (start, end)]
        return all(known)

    def overlap(self) -> bool:
        """Whether an axis has more than one role in the claim."""
        compared = {**(self.claim.compare or {}), **(self.claim.against or {})}
        roles: list[tuple[str, Iterable[str]]] = [("where", self.claim.where), ("for_each", self.claim.axes_repeated)]
        if self.claim.grows is not None:
            roles.append(("grows", [self.claim.grows.axis]))
        taken: dict[str, str] = dict.fromkeys(compared, "compare and with")
        for role, axes in roles:
            for axis in axes:
                if axis in taken:
                    message = f"the axis '{cropped(axis)}' is in {taken[axis]} already"
                    self.reading.find(self.node.keys[role], message)
                    return True
                taken[axis] = role
        return False

    def some_variant(self, name: str, levels: Levels) -> None:
        variants = self.reading.variants
        if not levels or not variants or any(levels.items() <= variant.levels.items() for variant in variants):
            return
        if any(finding.levels is not None for finding in self.reading.findings):
            return  # the variants are incomplete, and it has been said why
        mark = self.node.keys.get(name) or self.node.keys.get("where", self.node.mark)
        self.reading.find(mark, f"skip leaves no variant with {levels_text(levels)}")
