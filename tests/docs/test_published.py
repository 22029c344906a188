"""What pages say of published models is made of the registry and of the files they were published with."""

import json
from typing import Any

import pytest

from fathom.anatomy.cost import n_parameters
from fathom.families.registry import families, from_hf
from tests.docs.test_figures import DOCS
from tests.house.test_docs import refresh

PUBLISHED: dict[str, dict[str, Any]] = json.loads((DOCS / "published.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_the_parameters_it_was_published_with(name: str) -> None:
    config = from_hf(PUBLISHED[name]["config"], name)[1].resolved()
    assert n_parameters(config) == PUBLISHED[name]["parameters"]


def test_readme_lists_the_families_that_open() -> None:
    page = DOCS.parent / "README.md"
    text = page.read_text(encoding="utf-8")
    assert refresh.refreshed(text, page.name) == text, "run `make docs`"
    listed = " ".join(text.partition("families](docs/families.md) open:\n")[2].partition(".\n\n")[0].split()).split(
        ", "
    )
    assert sorted(listed) == sorted(family.title for family in families().values())
