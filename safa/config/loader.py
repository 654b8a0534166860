"""Strict YAML to typed, frozen settings.

An unknown key, a missing key or a value of the wrong type is reported in one line, with file and key, as a
``UserError``. Overrides (``--set a.b=c``) are checked in the same way as the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from safa.config.mistakes import explained
from safa.errors import UserError
from safa.files import Location, shown
from safa.limits import check_limit
from safa.paths import refuse_uri
from safa.reading import boundary, read_text_limited

LONGEST_NUMBER = 64  # characters; 1:1:1:1 is one in YAML, and takes time that grows with their square
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
PRESETS = Path(__file__).parent / "presets"


class Settings(BaseModel):
    """Base of every settings model: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    def with_absolute_paths(self) -> Self:
        """Return the settings with every path in them, however deep, made absolute; URIs stay as they are.

        A worker has another working directory than the program that sends it these settings.
        """
        return self.model_copy(update={name: _with_absolute_paths(value) for name, value in self})

    @classmethod
    def is_derived(cls, key: str) -> bool:
        """Whether a dotted key is filled in by the program that reads these settings, and by nobody else."""
        del key
        return False


def _with_absolute_paths(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, Settings):
        return value.with_absolute_paths()
    if isinstance(value, tuple):
        return tuple(map(_with_absolute_paths, value))
    return value


S = TypeVar("S", bound=Settings)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-4`` as a number (YAML 1.2) and refuses a key given twice.

    Nodes are counted while they are composed, each of which takes a kilobyte and 0.1 ms.
    """

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self._where, self._count = where, 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, if there may be one more.

        Raises:
            UserError: there are more than the limit ``config_nodes``, or a text is longer than any of ours.
        """
        self._count += 1
        check_limit("config_nodes", self._count, self._where)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise UserError(f"a number of {len(node.value)} characters", self._where, "Correct the value.")
        return node


# A run may be named by its date: nothing of ours is a point in time.
_Loader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in mapping:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is given twice", key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def _parse(text: str, where: str) -> Any:
    """Plain data from YAML. Nodes are counted, with their aliases followed, before anything is built of them.

    Ten lines that each name the line before ten times unfold to ten thousand million values.
    """
    check_limit("config_bytes", len(text), where)
    with boundary(where, "not valid YAML", "Check its brackets, quotes and indents."):
        loader = _Loader(text, where)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            check_limit("config_nodes", _unfolded(node, {}, where), where)
            return loader.construct_document(node)
        finally:
            loader.dispose()


def _unfolded(node: yaml.Node, sizes: dict[int, int], where: str) -> int:
    """How many values a node is, each alias counted as often as it is named."""
    known = sizes.get(id(node))
    if known == 0:  # entered and not left
        raise UserError("not valid YAML (an alias names what it is part of)", where, "Write it out.")
    if known is not None:
        return known
    sizes[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes[id(node)] = 1 + sum(_unfolded(child, sizes, where) for child in children)
    return sizes[id(node)]


def _apply_override(data: dict[str, Any], override: str) -> bool:
    """Change plain data. Returns whether it is another now."""
    key, sep, value = override.partition("=")
    if not sep or not key:
        raise UserError(f"'{override}' is not of the form a.b=value", "--set")
    *parents, leaf = key.split(".")
    node = data
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise UserError(f"'{name}' in '{key}' is not a section", "--set")
        node = child
    before = node.get(leaf, node)  # itself is no value
    node[leaf] = _parse(value, f"--set {key}")
    return before is node or before != node[leaf]


def _refuse_uris(value: Any, where: str, overrides: Sequence[str], key: str = "") -> None:
    """Refuse a URI under a key that takes a path only, which would else be a folder named ``s3:``."""
    if isinstance(value, Path):
        names = [each.partition("=")[0] for each in overrides]
        by = [each for name, each in zip(names, overrides, strict=True) if f"{key}.".startswith(f"{name}.")]
        refuse_uri(value, f"--set {by[-1]}" if by else f"{where}: key '{key}'")
    elif isinstance(value, Settings):
        for name, item in value:
            _refuse_uris(item, where, overrides, f"{key}.{name}" if key else name)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            _refuse_uris(item, where, overrides, f"{key}.{number}")


def parse_settings(data: object, model: type[S], where: str, overrides: Sequence[str] = ()) -> S:
    """Validate plain data (as YAML or JSON gives it) as ``model``; ``where`` names its origin in errors.

    Args:
        overrides: ``a.b=c``, which have changed the data already, to be named where they are wrong.

    Raises:
        UserError: as ``load_settings``.
    """
    try:
        # Strict JSON mode: lists may become tuples and strings paths, but "3" never becomes 3.
        with boundary(where, "holds a value that is not plain data"):
            plain = json.dumps(data)
        settings = model.model_validate_json(plain)
    except ValidationError as error:
        raise explained(error, model, where, data, overrides, model.is_derived) from None
    _refuse_uris(settings, where, overrides)
    return settings


def load_settings(path: Location, model: type[S], overrides: Sequence[str] = ()) -> S:
    """Read a YAML file as ``model``, its preset below it, and ``a.b=c`` overrides on top.

    Raises:
        UserError: file or preset missing, not YAML, unknown or missing key, wrong type or value.
    """
    where = shown(path)
    data = _parse(read_text_limited(path, "config_bytes"), where)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UserError("the config is not a mapping of keys to values", where)
    changed = [each for each in overrides if _apply_override(data, each)]
    return parse_settings(_with_preset(data, changed, model, where), model, where, changed)


# ---- presets -----------------------------------------------------------------------------------------------


def _with_preset(
    data: dict[str, Any], overrides: Sequence[str], model: type[S], where: str
) -> dict[str, Any]:
    """The settings of a file, overrides included, on top of those sections of its preset that ``model`` has.

    ``preset: NAME`` stands for ``safa/config/presets/NAME.yaml``, so that sizes are written once.
    """
    if "preset" not in data or "preset" in model.model_fields:
        return data
    name = data.pop("preset")
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in known:
        by = next((f"--set {each}" for each in overrides if each.startswith("preset=")), where)
        raise UserError(f"key 'preset' is {name!r}", by, f"Choose one of {', '.join(known)}.")
    sections = _parse((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"), f"preset {name}")
    fitting = {key: value for key, value in sections.items() if key in model.model_fields}
    if not fitting:
        raise UserError("unknown key 'preset'", where, "Remove it.")
    return _merged(fitting, data)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections key by key; any other value of ``above`` replaces that of ``below``."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            value = _merged(known, value)
        merged[key] = value
    return merged


def dump_settings(settings: Settings) -> str:
    """Write the settings as YAML text that ``load_settings`` reads back to an equal object."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def settings_hash(settings: Settings, ignore: Set[str] = frozenset()) -> str:
    """Return twelve hex digits that change when any setting changes; the order of keys does not matter.

    Args:
        ignore: keys that are left out, dotted where they are nested (``data.stage_to``).
    """
    left_out: dict[str, Any] = {}
    for key in ignore:
        *sections, leaf = key.split(".")
        node = left_out
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = True
    text = json.dumps(settings.model_dump(mode="json", exclude=left_out), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
