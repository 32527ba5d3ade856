"""Recognise the folders in which img2dataset's output format ``files`` lays images, so that none is taken for a class.

A shard is a folder called by its number of five digits or more, ``00012``, and its samples are numbered on from that:
``000120034.jpg`` with the caption in ``000120034.txt`` and all that is known of it in ``000120034.json``
(https://github.com/rom1504/img2dataset, ``writer.py``). Captions are no labels.
"""

import os
from collections.abc import Sequence

from penultimate.engine.images.folders.file_kinds import IMAGE
from penultimate.engine.images.folders.folder_tree import FolderTree, last_of, parent_of

_FEWEST_DIGITS = 5


def are_shards(tree: FolderTree, folders: Sequence[str]) -> bool:
    """Return whether all of ``folders``, of which there is one at least, are img2dataset's shards of image files.

    Every image in them must be numbered on from its folder, and one in each folder must have its ``.json`` beside it:
    a download that was stopped may lack some.
    """
    if not folders or not all(_is_number(last_of(folder), more_than=_FEWEST_DIGITS - 1) for folder in folders):
        return False
    shards = tree.with_images.intersection(folders)
    if not shards or any(below in tree.with_images for shard in shards for below in tree.children.get(shard, ())):
        return False
    images = [path for path, kind in tree.index.files if kind == IMAGE and parent_of(path) in shards]
    described = {_stem(path) for path, kind in tree.index.files if kind == ".json" and parent_of(path) in shards}
    return all(map(_is_sample, images)) and {parent_of(path) for path in images if _stem(path) in described} == shards


def _is_sample(image: str) -> bool:
    """Return whether an image is numbered on from its folder."""
    shard, number = last_of(parent_of(image)), last_of(_stem(image))
    return number.startswith(shard) and _is_number(number, more_than=len(shard))


def _is_number(name: str, *, more_than: int) -> bool:
    """Return whether a name is made of ASCII digits, of more than ``more_than``."""
    return len(name) > more_than and name.isascii() and name.isdigit()


def _stem(path: str) -> str:
    """Return a path without its suffix."""
    return os.path.splitext(path)[0]
