"""Views for notebooks, and the figures that objects draw of themselves."""

import re
from xml.etree import ElementTree

import pytest

import mdm_schedules as mdm
from mdm_schedules import sketch
from mdm_schedules.errors import MDMError
from mdm_schedules.tuning.objectives import Objective


class Flat(Objective):
    name = "flat <b>"
    direction = "maximize"
    steps = 4

    def __call__(self, schedule, steps=None):
        return float(schedule.plan(16, steps or self.steps)[0])


def objects():
    yield mdm.get_schedule("beta(a=0.9, b=0.3)")
    yield mdm.InformationProfile([2.0, 1.0, 0.5, 0.25, 0.0])
    yield mdm.InformationProfile([0.0])
    yield mdm.Beta(1e-3, 1e6)


@pytest.mark.parametrize("one", list(objects()), ids=repr)
def test_a_notebook_shows_a_picture_that_is_well_formed(one):
    root = ElementTree.fromstring(one._repr_html_())
    assert root.find(".//svg") is not None
    for element in root.iter("rect"):
        assert float(element.get("height")) >= 0
    assert "nan" not in one._repr_html_()


def test_a_schedules_bars_are_its_plan():
    schedule = mdm.Sine()
    heights = [
        float(height)
        for height in re.findall(r'<rect[^>]*height="([\d.]+)"', schedule._repr_html_())
    ]
    plan = schedule.plan(256, 16).tolist()
    assert len(heights) == 16
    assert [height / max(heights) for height in heights] == pytest.approx(
        [count / max(plan) for count in plan], abs=0.01
    )


def test_a_tuning_result_shows_its_verdict_and_table():
    found = mdm.tune(Flat(), n_trials=2, method="random", seed=0)
    root = ElementTree.fromstring(found._repr_html_())
    assert root.find("code").text == found.verdict()
    assert len(root.findall(".//tr")) >= 2


def test_text_is_escaped():
    assert "<b>" not in sketch.view("<b>", sketch.table(["<b>"], [["<b>"]]))


def test_a_schedule_draws_itself_into_a_file(tmp_path):
    pytest.importorskip("matplotlib")
    figure = mdm.Sine().plot(tmp_path / "sine.png", num_tokens=64, steps=8)
    assert (tmp_path / "sine.png").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_ylabel() for axes in figure.axes][1] == "tokens revealed of 64"
    with pytest.raises(MDMError, match="must end in one of"):
        mdm.Sine().plot(tmp_path / "sine.txt")
