"""Turn the options of a settings model into a verb's options: daily ones as flags, all as ``--set name=value``.

Names, types, ranges, defaults and help texts are read from the model (see ``engine.runtime.strict.Strict``), so that a
verb repeats none of them:

    @with_settings(TrainJob, flags={HOW: ("steps", "batch_size --batch-size -b")})
    def train(images: options.Images, settings: Given) -> None:
        job = TrainJob.of(settings)
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer
import yaml

from penultimate.cli.options import HOW, WHAT, WHERE
from penultimate.engine.runtime.strict import Strict
from penultimate.store.errors import InputError, UnknownNameError

Given = dict[str, Any]
"""Name of an option -> the value that was typed, not yet checked by the model."""

Groups = Mapping[str, Sequence[str]]
"""Heading in ``--help`` -> the flags below it: a field's name, then the flags where they have other names."""

Command = Callable[..., None]

HEADINGS = (None, WHAT, HOW, WHERE)
"""Headings of ``--help``, in order; arguments have none."""


def with_settings(model: type[Strict], *, flags: Groups) -> Callable[[Command], Command]:
    """Replace a verb's parameter ``settings`` by flags for fields of ``model``, and by ``--set`` for all of its fields.

    The verb receives what was typed and nothing else, so that the model's defaults are the only ones. A flag of a tuple
    takes several values, repeated or separated by commas.
    """
    made = [_Flag.parse(model, text, group) for group, texts in flags.items() for text in texts]

    def decorate(verb: Command) -> Command:
        @wraps(verb)
        def command(changes: list[str] | None, **typed: Any) -> None:
            values = [(flag, typed.pop(flag.name)) for flag in made]
            given = {flag.name: flag.read(value) for flag, value in values if value not in (None, [])}
            verb(**typed, settings=given | parse_changes(model, changes or [], given=given))

        signature = inspect.signature(verb, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "settings"]
        parameters = [*own, *(flag.parameter for flag in made), _set_parameter(verb.__name__)]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        parameters.sort(key=lambda parameter: HEADINGS.index(_group(parameter)))
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # for Typer
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def parse_changes(model: type[Strict], changes: Sequence[str], *, given: Given) -> Given:
    """Read texts ``name=value``, the values as YAML.

    Raises InputError for a text of another form and for an option set twice or ``given`` as a flag too, and
    UnknownNameError with the nearest names for one that ``model`` does not have.
    """
    found: Given = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or not name:
            raise InputError(
                f"--set takes name=value, for example {next(iter(model.model_fields))}=..., got {change!r}"
            )
        if name not in model.model_fields:
            raise UnknownNameError("setting", name, model.model_fields)
        if name in found or name in given:
            raise InputError(f"--set {change}: {name} is given twice; leave one of the two away")
        found[name] = _yaml(text)
    return found


def described(model: type[Strict]) -> list[dict[str, str]]:
    """List the options of ``model``: ``name``, ``type`` with its range, ``default`` and ``help`` of each."""
    properties = model.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "type": _type_text(properties[name]),
            "default": _default(model, name),
            "help": _help(model, name),
        }
        for name in model.model_fields
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flag:
    """A field of a model on the command line."""

    model: type[Strict]
    name: str
    names: tuple[str, ...]
    """Names of the flag, such as ``--batch-size`` and ``-b``."""

    group: str

    @classmethod
    def parse(cls, model: type[Strict], text: str, group: str) -> "_Flag":
        name, *names = text.split()
        return cls(model=model, name=name, names=tuple(names or [f"--{name.replace('_', '-')}"]), group=group)

    @property
    def parameter(self) -> inspect.Parameter:
        """Return the parameter from which Typer makes the flag; its value is None where the flag was not given."""
        kind = _without_none(self.model.model_fields[self.name].annotation)
        names = [f"{name}/--no-{name[2:]}" for name in self.names] if kind is bool else self.names
        default = _default(self.model, self.name)
        help_text = _help(self.model, self.name) + (f" [default: {default}]" if default else "")
        many = get_origin(kind) is tuple
        metavar = "A[,B...]" if many else None
        option = typer.Option(*names, help=help_text, metavar=metavar, rich_help_panel=self.group, show_default=False)
        typed: Any = list[str] if many else kind
        annotation = Annotated[typed | None, option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def read(self, value: Any) -> Any:
        """Return the given value; for a tuple, each part between commas, as YAML reads it unless all are texts."""
        if not isinstance(value, list):
            return value
        texts = get_args(_without_none(self.model.model_fields[self.name].annotation))[0] is str
        return [part if texts else _yaml(part) for text in value for part in text.split(",")]


def _group(parameter: inspect.Parameter) -> str | None:
    """Return the heading of a parameter, or None."""
    (option,) = parameter.annotation.__metadata__
    return getattr(option, "rich_help_panel", None)


def _set_parameter(verb: str) -> inspect.Parameter:
    option = typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help=f"Any other setting; repeats. `penultimate settings {verb.replace('_', '-')}` lists them all.",
        rich_help_panel=HOW,
    )
    annotation = Annotated[list[str] | None, option]
    return inspect.Parameter("changes", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{text!r} is no YAML value") from error


def _without_none(annotation: Any) -> Any:
    """Return ``X`` for ``X | None`` and for ``Annotated[X, ...]``."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    others = [part for part in get_args(annotation) if part is not NoneType]
    return _without_none(others[0]) if NoneType in get_args(annotation) and len(others) == 1 else annotation


def _help(model: type[Strict], name: str) -> str:
    """Return the field's docstring, without the marks of code in it."""
    return " ".join((model.model_fields[name].description or "").replace("``", "").split())


def _default(model: type[Strict], name: str) -> str:
    """Return the default in the form of an option's value; empty where the help text gives it."""
    default = model.model_fields[name].get_default(call_default_factory=True)
    if default is None or default == (None,) or model.model_fields[name].is_required():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _type_text(schema: Mapping[str, Any]) -> str:
    """Describe a type from a field's JSON schema: ``integer >= 1``, ``paper | timm``, ``list of number > 0``."""
    if "anyOf" in schema:
        return " | ".join(_type_text(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "prefixItems" in schema:
        return f"[{', '.join(_type_text(part) for part in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {_type_text(schema.get('items', {}))}"
    bounds = ", ".join(f"{sign} {schema[bound]:g}" for bound, sign in _BOUNDS.items() if bound in schema)
    return f"{schema.get('type', 'any')} {bounds}".strip()
