"""The JSON schema of an experiment's file, for editors, from the same models that check it.

It knows the keys, types, ranges and kinds. What spans several places (axes, claims, papers) only `load` checks.
"""

from __future__ import annotations

import json
from typing import Any

from dlpipe.spec.experiment import Experiment
from dlpipe.spec.reading import OF_A_VARIANT

FILE = "config/schema/experiment.schema.json"
MODELINE = "# yaml-language-server: $schema=../../schema/experiment.schema.json"
"""First line of an experiment in `config/experiments/<chapter>/`."""


def experiment_schema() -> dict[str, Any]:
    made = Experiment.model_json_schema(by_alias=True, mode="validation")
    for definition in made["$defs"].values():
        if "const" in definition.get("properties", {}).get("kind", {}):
            _require_kind(definition)
    patches = made["properties"]["axes"]["additionalProperties"]["additionalProperties"]
    patches["propertyNames"] = {"pattern": rf"^({'|'.join(OF_A_VARIANT)})(\.|$)"}
    description = "One experiment of dlpipe: what is compared, at which sizes, and what its paper claims."
    _drop_titles(made)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "Experiment",
        "description": description,
    }


def _require_kind(definition: dict[str, Any]) -> None:
    """In YAML a kind is always written, though Python has a default for it."""
    definition["properties"]["kind"].pop("default", None)
    definition["required"] = ["kind", *(name for name in definition.get("required", ()) if name != "kind")]


def _drop_titles(node: Any) -> None:
    """pydantic titles every field ("Learning Rate"): noise beside the key itself."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for part in node.values():
            _drop_titles(part)
    elif isinstance(node, list):
        for part in node:
            _drop_titles(part)


def schema_text() -> str:
    """What is committed, and what `dlpipe schema` prints."""
    return json.dumps(experiment_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
