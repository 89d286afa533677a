"""The page of `mdm-schedules explore`, as text, and in a real browser."""

import json
import re

import browser as drive
import pytest
import torch

import mdm_schedules as mdm
from mdm_schedules.energy import energy_excess
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.explorer import Recording, Run, explore_page
from mdm_schedules.explorer.page import bundled_profiles
from mdm_schedules.information import InformationProfile

HOSTILE = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'>$STYLE"
TEXT = Recording(
    HOSTILE,
    HOSTILE,
    (
        Run("linear()", 2, ("def ", HOSTILE, "x", ""), (0, 1, 2, -1)),
        Run(HOSTILE, 2, ("def ", "y", HOSTILE, ""), (0, 2, 1, -1)),
    ),
)
GRID = Recording(
    "grid", "two rows", (Run("sine()", 2, ("1", "1", "2", "1"), (0, 1, 2, 2)),), 2, ((0, 1), (2, 3))
)
OWN = InformationProfile(torch.linspace(2, 0.1, 40))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(explore_page(profiles={"mine": OWN}, recordings=[TEXT, GRID]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened():
    if drive.CHROMIUM is None or drive.DRIVER is None:
        pytest.skip(drive.MISSING)
    with drive.Browser() as one:
        yield one


@pytest.fixture
def browser(opened, page):
    opened.open(page)
    yield opened
    assert opened.complaints() == []


# --- as text


def test_the_page_is_small_and_names_no_address_but_links(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 100_000
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=[\"']?http", text)
    assert "connect-src" not in text  # default-src 'none' holds for all that is not named
    assert "default-src 'none'" in text


def test_what_a_model_wrote_stays_data(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 2
    assert "<img" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["recordings"][0]["runs"][0]["pieces"][1] == HOSTILE


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ({"schedule": "sine"}, InvalidValueError, "for example 'beta(a=0.9, b=0.3)'"),
        ({"schedule": "beta(a=9, b=1)"}, InvalidValueError, "from 0.1 to 2"),
        ({"steps": 0}, InvalidValueError, "steps"),
        ({"num_tokens": 5000}, InvalidValueError, "512"),
        ({"profiles": {"x": [1.0]}}, InvalidTypeError, "from_pretrained"),
        ({"recordings": [Recording("", "x" * 1_000_000, ())]}, InvalidValueError, "record shorter"),
    ],
)
def test_bad_input_is_told(words, error, says):
    with pytest.raises(error, match=re.escape(says)):
        explore_page(**words)


# --- in a browser


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), [(0.9, 0.3), (0.5, 0.5), (0.15, 2), (2, 0.1), (1, 1.35)])
def test_numbers_equal_pythons(browser, a, b):
    schedule = mdm.Beta(a, b)
    for steps, tokens in ((16, 256), (7, 100), (128, 60), (1, 512)):
        for name, value in (("a", a), ("b", b), ("steps", steps), ("tokens", tokens)):
            browser.slide(name, value)
        assert browser.text("spec") == schedule.spec
        plan = [int(word) for word in browser.text("plan").split()]
        assert plan == schedule.plan(tokens, steps).tolist()
    browser.slide("steps", 9)
    for name, profile in {"mine": OWN, "Sudoku": None}.items():
        profile = profile or InformationProfile(bundled_profiles()[name]["h"])
        browser.slide("profile", name)
        for place, plan in (
            ("this", schedule.plan(profile.num_tokens, 9)),
            ("other", mdm.Linear().plan(profile.num_tokens, 9)),
            ("least", profile.optimal_plan(9)),
        ):
            assert float(browser.text(f"{place}-cost")) == pytest.approx(
                profile.cost(plan), rel=1e-5, abs=1e-9
            )
    for gamma in ("1,1", "0.5,0.5", "0.9,0.3"):
        browser.slide("gamma", gamma)
        c, d = map(float, gamma.split(","))
        excess = energy_excess(schedule, mdm.Beta(c, d))
        shown = browser.text("excess")
        assert float(shown.replace("infinite", "inf")) == pytest.approx(excess, rel=1e-5)


@pytest.mark.browser
@pytest.mark.slow
def test_curves_equal_pythons(browser):
    times = torch.linspace(0, 1, 41, dtype=torch.float64)
    for a, b in ((0.9, 0.3), (0.1, 2.0), (0.5, 0.5)):
        pairs = browser.run(
            "const s = beta(...arguments); return Array.from({length: 41}, (_, i) => "
            "[s.alpha(i / 40), Math.min(1e9, s.slope(i / 40))])",
            a,
            b,
        )
        alpha, slope = torch.tensor(pairs, dtype=torch.float64).T
        torch.testing.assert_close(alpha, mdm.Beta(a, b).alpha(times), rtol=1e-12, atol=1e-14)
        expected = mdm.Beta(a, b).alpha_dot(times).clamp(max=1e9)
        torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)
    for name in ("linear", "sine", "squared_sine", "cosine"):
        values = browser.run(
            "const s = closedForms[arguments[0]]; return Array.from({length: 41}, (_, i) => "
            "[s.alpha(i / 40), s.slope(i / 40)])",
            name,
        )
        schedule = mdm.get_schedule(name)
        expected = torch.stack([schedule.alpha(times), schedule.alpha_dot(times)], 1)
        torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), expected)


@pytest.mark.browser
@pytest.mark.slow
def test_keys_move_sliders_and_the_link_brings_them_back(browser, page):
    browser.press("a", "right", "right")
    assert browser.text("spec") == "beta(a=1.0, b=0.3)"
    address = browser.run("return location.hash")
    browser.open(page, "#a=0.4&b=0.7&steps=5&tokens=40&other=sine&profile=nonsense")
    browser.wait("document.getElementById('spec').textContent === 'beta(a=0.4, b=0.7)'")
    assert browser.text("other-name") == "sine()"
    assert browser.run("return document.getElementById('profile').value") == "mine"
    browser.open(page, address)
    browser.wait("document.getElementById('spec').textContent === 'beta(a=1.0, b=0.3)'")
    browser.click("copy-spec")
    browser.wait("document.getElementById('copied').textContent")


@pytest.mark.browser
@pytest.mark.slow
def test_a_recorded_run_plays_and_its_markup_is_text(browser):
    assert HOSTILE in browser.text("panels")
    assert browser.run("return window.ran === undefined && !document.querySelector('img')")
    browser.slide("recording", 1)
    browser.slide("pass", 0)
    wrong = "return document.querySelectorAll('.wrong').length"
    assert browser.run(wrong) == 0
    browser.slide("pass", 1)
    assert browser.run(wrong) == 2  # the row 1 1
    assert "2 masked, 2 cells in conflict" in browser.text("panels")
    browser.press("pass", "right")
    assert browser.text("pass-value") == "2 of 2"
    browser.click("play")  # from the start, as it stands at the end
    browser.wait("document.getElementById('play').textContent === 'Play'")
    assert "0 masked" in browser.text("panels")


@pytest.mark.browser
@pytest.mark.slow
def test_it_fits_a_phone_and_asks_nothing_of_the_network(browser, page):
    screen = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.devtools("Emulation.setDeviceMetricsOverride", **screen)
    browser.requests()
    browser.open(page)
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    asked = [address for address in browser.requests() if not address.startswith("data:")]
    assert asked, "the page itself is a request"
    assert all(address.startswith("file://") for address in asked)
    browser.devtools("Emulation.clearDeviceMetricsOverride")


def luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, two):
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.devtools("Emulation.setEmulatedMedia", features=features)
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    ground = browser.run(style, "section", "backgroundColor")
    assert contrast(browser.run(style, "body", "color"), ground) > 7
    assert contrast(browser.run(style, ".note", "color"), ground) > 4.5
    lines = [browser.run(style, name, "stroke") for name in ("path.one", "path.two")]
    for colour in lines:
        assert contrast(colour, ground) > 3  # WCAG's least for graphics
    # apart without colour too: one line is dashed
    assert browser.run(style, "path.two", "strokeDasharray") != "none"
    assert browser.run(style, "path.one", "strokeDasharray") == "none"
    browser.devtools("Emulation.setEmulatedMedia", features=[])
