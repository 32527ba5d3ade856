"""Names of networks as other libraries write them, and the names of timm that are likely to be meant."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}

_REWRITES = (
    # dinov2_vits14 and dinov2_vits14_reg of torch hub, dinov3_vitb16
    (r"dino(v[23])_vit([sblhg])(\d+)(?:_reg)?\b.*", "vit {size} patch{1} dino{0}"),
    # dino_vits16 of torch hub, a tag of timm's
    (r"dino_vit([sb])(\d+)", "vit {size} patch{0} .dino"),
    # ViT-B/32 of OpenAI's CLIP, vit_b_16 of torchvision
    (r"(?:clip )?vit[-_]([tsblhg])[-_/](\d+).*", "vit {size} patch{0}"),
)
"""Regular expression -> words of timm's name; {size} is the word for its one letter, {0} and {1} the other groups."""


def suggested_names(name: str, known: Sequence[str], *, limit: int = 3) -> list[str]:
    """The names of ``known`` that ``name`` may stand for, likeliest first; none where nothing is near.

    A repository's owner and address are passed over. First come spellings of other libraries, then names that are
    spelt nearly so (``difflib``), then names that hold all the words of it.
    """
    bare = re.sub(r"^(?:https?://)?(?:huggingface\.co/)?(?:hf[-_]hub:)?", "", name.strip()).rstrip("/")
    bare = bare.rpartition("/")[2] if re.fullmatch(r"[\w.-]+/[\w.-]+", bare) and not re.search(r"/\d+$", bare) else bare
    if bare in known:
        return [bare]
    rewritten = [words.split() for words in _rewritten(bare.lower())]
    spelt = get_close_matches(bare, known, n=limit, cutoff=0.75)
    holding = [re.findall(r"[a-z]+|\d+", bare.lower())]
    found = [*_holding(rewritten, known), *spelt, *_holding(holding, known), *get_close_matches(bare, known, n=limit)]
    return list(dict.fromkeys(found))[:limit]


def _rewritten(name: str) -> list[str]:
    found = []
    for pattern, words in _REWRITES:
        if match := re.fullmatch(pattern, name):
            size = next(group for group in match.groups() if group in _SIZES)
            others = [group for group in match.groups() if group != size]
            found.append(words.format(*others, size=_SIZES[size]))
    return found


def _holding(wanted: Sequence[Sequence[str]], known: Sequence[str]) -> list[str]:
    """Names that hold every word of one of ``wanted``, the shortest first."""
    return sorted((name for name in known if any(all(w in name for w in words) for words in wanted if words)), key=len)
