"""Read a study from YAML, change it by ``a.b=c``, and write it with all defaults beside its results."""

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from typing_extensions import override

from penultimate.engine.runtime.strict import one_line
from penultimate.engine.study.study import Study
from penultimate.store.errors import InputError


def read_study(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read the study in a YAML file, applying ``changes`` such as ``probe.0.tol=1e-3`` first.

    Raises InputError, one line, for a file that cannot be read or that is not YAML or not a study.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the study {path} cannot be read: {error}") from error
    return parse_study(text, changes, origin=str(path))


def parse_study(text: str, changes: Sequence[str] = (), *, origin: str = "study") -> Study:
    """Parse the YAML text of a study, applying ``changes`` first.

    Raises InputError, one line that names ``origin``, for a text that is not YAML or not a study.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{origin} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{origin} holds no study: expected datasets, backbones and what to do, got {content!r}")
    for change in changes:
        _change(content, change)
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise one_line(error, origin=origin) from error


def write_study(study: Study, path: Path) -> None:
    """Write every setting, defaults included, in one atomic step; it reads back as an equal study. Raises OSError."""
    partial = path.with_suffix(".partial")
    content = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    with partial.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class _Loader(yaml.SafeLoader):
    """A YAML loader that rejects a repeated key, of which PyYAML silently keeps the last value."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _change(content: dict[str, Any], change: str) -> None:
    """Set one value; missing mappings on the way are made, list elements must exist."""
    name, equals, text = change.partition("=")
    *way, last = name.split(".")
    if not equals or not last or not all(way):
        raise InputError(f"--set takes a.b=c, for example probe.0.tol=1e-3, got {change!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {change}: {text!r} is no YAML value") from error
    node: Any = content
    for part in way:
        node = _step(node, part, change)
    if isinstance(node, list):
        node[_index(node, last, change)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise InputError(f"--set {change}: {'.'.join(way)} is {node!r}, which has no {last!r}")


def _step(node: Any, part: str, change: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, change)]
    if not isinstance(node, dict):
        raise InputError(f"--set {change}: there is nothing below {node!r}")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _index(node: list[Any], part: str, change: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise InputError(
            f"--set {change}: {part!r} is no index of a list of {len(node)}; expected 0 to {len(node) - 1}"
        )
    return int(part)
