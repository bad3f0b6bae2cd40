"""Names of datasets in warnings and tables."""

from __future__ import annotations

import pytest

from cap2im.evaluation.protocol import source_name


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"title": "Our street", "source": {"kind": "table", "path": "/home/me/list.csv"}}, "Our street"),
        ({"source": {"kind": "table", "path": "/home/me/list.csv"}}, "list.csv (table)"),
        ({"source": {"kind": "huggingface", "path": "someone/photos"}}, "someone/photos (huggingface)"),
        ({}, "a source of kind unknown"),
    ],
)
def test_a_dataset_is_named_by_its_title_or_source(about, name):
    assert source_name(about) == name
