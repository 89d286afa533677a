"""The guide's table of model families: each cell run again, and the table as its results say."""

import json
import sys
from pathlib import Path

import pytest
from family_models import FAMILIES

EXAMPLES = Path(__file__).parents[2] / "examples"
KEPT = json.loads((EXAMPLES / "guide/families.json").read_text())

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import family_matrix

    yield family_matrix
    del sys.modules["family_matrix"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_does_what_the_table_says(script, name):
    import transformers

    kept = [rows[name] for rows in KEPT.values() if rows.get(name)]
    wanted = list(dict.fromkeys(column for row in kept for column in row))
    found = script.try_family(name, wanted)
    if found is None:
        pytest.skip(f"transformers {transformers.__version__} has no such class")
    assert {**found, "cache": "yes"} == dict.fromkeys(wanted, "yes")
    # encoders have a cache on transformers 5 only
    assert found in kept


def test_the_table_is_made_from_its_results(script):
    text = script.GUIDE.read_text(encoding="utf-8")
    assert f"{script.START}\n{script.table(KEPT)}\n{script.END}" in text


def test_a_family_that_fails_is_a_no_with_its_reason(script, monkeypatch):
    import family_models
    from capabilities import CAPABILITIES

    def broken(model, tokenizer):
        raise ValueError("no such luck\nand more")

    monkeypatch.setitem(CAPABILITIES, "generate", broken)
    monkeypatch.setitem(family_models.FAMILIES, "Newer", family_models.encoder("NoSuchModel"))
    assert script.try_family("BERT", ["generate"]) == {"generate": "ValueError: no such luck"}
    assert script.try_family("Newer", ["generate"]) is None
    kept = {"1.0": {"BERT": {"generate": "yes"}}, "2.0": {"BERT": {"generate": "ValueError: x"}}}
    assert "4.57.1 and later | yes (1.0), no (2.0) |" in script.table(kept)
    kept = {version: {"BERT": {"generate": "ValueError: x"}} for version in ("1.0", "2.0")}
    assert "| BERT | `masked_lm` | 4.57.1 and later | no |" in script.table(kept)


def test_each_model_is_small_and_has_its_mask_last():
    for family in FAMILIES.values():
        model = family.build()
        if model is not None:
            assert sum(weight.numel() for weight in model.parameters()) < 300_000
            assert family.tokenizer().mask_token_id == family.vocabulary - 1
