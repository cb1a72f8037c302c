"""Validate custom resources strictly against the custom resource definitions of a folder.

An unknown field is an error, because the API server drops it in silence; so is a field whose description says
that Knative takes it only behind a feature flag.
"""

import functools
import os
import re
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from manifests import ROOT, Document

BEHIND_A_FLAG = re.compile(r"behind a feature flag - ([\w.-]+)")
FLAGS_ON_BY_DEFAULT = {"kubernetes.podspec-volumes-emptydir"}
ADDED = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}


def definitions_folder() -> Path | None:
    """The folder CRDS, or else a folder `crds` in a neighbour of the repository, or None."""
    if named := os.environ.get("CRDS"):
        return Path(named)
    return next((folder for folder in sorted(ROOT.parent.glob("*/crds")) if any(folder.glob("*.yaml"))), None)


def problems(documents: list[Document], folder: Path) -> tuple[int, list[str]]:
    """How many of the documents have a definition in the folder, and what is wrong with them."""
    checked, found = 0, []
    for document in documents:
        validator = validators(folder).get((document["apiVersion"], document["kind"]))
        if validator is None:
            continue
        checked += 1
        name = f"{document['kind']}/{document['metadata']['name']}"
        for error in validator.iter_errors(document):
            place = ".".join(str(part) for part in error.absolute_path) or "the document"
            found.append(f"{name}: {place}: {error.message[:200]}")
    return checked, found


@functools.cache
def validators(folder: Path) -> dict[tuple[str, str], Draft202012Validator]:
    return {
        (
            f"{definition['spec']['group']}/{version['name']}",
            definition["spec"]["names"]["kind"],
        ): Draft202012Validator(with_common_fields(closed(version["schema"]["openAPIV3Schema"])))
        for file in sorted(folder.glob("*.yaml"))
        for definition in yaml.safe_load_all(file.read_text())
        if definition and definition.get("kind") == "CustomResourceDefinition"
        for version in definition["spec"]["versions"]
    }


def with_common_fields(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"properties": schema.get("properties", {}) | ADDED}


def refused(schema: dict[str, Any]) -> bool:
    flag = BEHIND_A_FLAG.search(schema.get("description", ""))
    return flag is not None and flag[1] not in FLAGS_ON_BY_DEFAULT


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema of Kubernetes as JSON Schema that refuses what it does not name."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = (
        "type",
        "enum",
        "pattern",
        "required",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
    )
    result = {name: schema[name] for name in kept if name in schema}
    if schema.get("nullable") and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
    for combined in ("oneOf", "anyOf", "allOf"):
        if combined in schema:
            result[combined] = schema[combined]
    if "properties" in schema:
        fields = schema["properties"].items()
        result["properties"] = {name: closed(field) for name, field in fields if not refused(field)}
        result["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = closed(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        result["items"] = closed(schema["items"])
    return result
