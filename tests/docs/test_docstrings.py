"""Docstrings become Markdown: code, doctests and literal blocks."""

from docstrings import as_markdown


def test_doctests_and_literal_blocks_are_fenced_and_the_rest_stays() -> None:
    text = 'Read ``x``.\n\n>>> f(getfixture("probe_store"))\n1\n\nExamples\n--------\n::\n\n    a\n\n    b\nEnd.'
    assert as_markdown(text) == (
        'Read `x`.\n\n\n```pycon\n>>> f("features.zarr")\n1\n```\n\n\nExamples\n--------\n\n\n'
        "```python\na\n\nb\n```\n\nEnd."
    )


def test_indented_code_without_a_mark_stays() -> None:
    assert as_markdown("The tree:\n\n    A\n    └── B") == "The tree:\n\n    A\n    └── B"
