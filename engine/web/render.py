"""Render pages from templates: those of a page's own package, and those that all pages share."""

import json
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@cache
def environment(package: str) -> Environment:
    """Return the templates in the folder ``templates`` of a package, and behind them the shared ones of this folder.

    A page extends ``skeleton.html.j2``, which brings ``page.css`` and ``tables.js``. Values are escaped, and a name
    that a template misspells is an error.
    """
    loaders = [PackageLoader(package, "templates"), PackageLoader("penultimate.engine.web", "templates")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def script_safe(value: Any) -> Markup:
    """Return ``value`` as JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return Markup(text)
