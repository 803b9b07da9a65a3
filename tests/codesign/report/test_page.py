import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from codesign.candidate import Choice
from codesign.frontier import Baseline, Frontier
from codesign.report import Refusal, ReportData, render

VOID = {"meta", "br", "col", "input"}


class Page(HTMLParser):
    """Text, tags and attributes; fails on elements that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def test_it_is_well_formed_and_loads_nothing(data):
    text = render(data)
    page = Page(text)
    assert "http://" not in text
    assert "https://" not in text
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any({"src", "href", "srcset"} & set(attributes) for _, attributes in page.tags)
    assert "@import" not in text
    assert "url(" not in text
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_everything_is_in_it(data):
    text = Page(render(data)).text
    for p in data.frontier.points:
        assert p.name in text
        assert p.bundle in text
        assert data.labels[p.name] in text
    for b in data.frontier.baselines:
        assert b.name in text
    for k in data.kernels:
        assert k.name in text
        assert k.shapes in text
    for row in (*data.refusals, *data.vetoes):
        assert row.reason in text
    for fusion in data.fusions:
        assert fusion.chain in text
    assert "layer_norm_quantize" in text
    for change in data.changes:
        assert change.because in text
    for value in (*data.versions.values(), *data.notes, "1,925", "tau"):
        assert value in text


def test_the_plot_has_a_mark_for_every_point_and_its_panel(data):
    page = Page(render(data))
    marks = [a for _, a in page.tags if "data-point" in a]
    assert [a["data-point"] for a in marks] == [str(i) for i in range(10)]
    assert all(a["role"] == "button" and a["tabindex"] == "0" for a in marks)
    assert sum("data-detail" in a for _, a in page.tags) == 10
    assert sum(a.get("class") == "other" for t, a in page.tags if t == "circle") == 7
    fast, slow = marks[0]["data-tip"].splitlines(), marks[-1]["data-tip"].splitlines()
    assert fast[0].startswith("p00: ")
    assert slow[2] == "mrr 0.5410, loss 0.0 %"


def test_marks_lie_where_the_numbers_say(data):
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="6"', render(data))
    x, y = zip(*((float(a), float(b)) for a, b in dots), strict=True)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y, reverse=True)  # better quality is higher up


def test_speed_up_over_each_baseline(data):
    slowest = data.frontier.points[-1]
    text = Page(render(data)).text
    assert f"{18.4 / slowest.latency_ms:.2f}\u00d7" in text
    fastest = min(
        (p for p in data.frontier.points if data.loss(p) <= 0.01), key=lambda p: p.latency_ms
    )
    assert f"{14.6 / fastest.latency_ms:.2f}\u00d7faster than dense" in text


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=a>', "a&amp;b"]
)
def test_text_is_escaped_wherever_it_comes_from(data, evil):
    wrong = replace(
        data,
        metric=evil,
        notes=(evil,),
        labels={"p00": evil},
        refusals=(Refusal(evil, evil, evil),),
        device={evil: evil},
        goal={"metric": evil},
        frontier=replace(
            data.frontier,
            model=evil,
            baselines=(Baseline(evil, 5.0, {evil: 0.5}),),
            points=tuple(
                replace(
                    p,
                    bundle=evil,
                    quality={evil: 0.5 + 0.01 * i},
                    choices=(Choice(evil, evil, {"keep": evil}),),
                )
                for i, p in enumerate(data.frontier.points)
            ),
        ),
    )
    page = Page(render(wrong))
    assert evil in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag == "img" for tag, _ in page.tags)


def test_an_empty_run_is_a_page_too():
    empty = ReportData(Frontier("m", "t", 2, {}, (), ()), "mrr")
    text = Page(render(empty)).text
    assert "0points on the frontier" in text
    assert "What measuring changed" not in text


def test_a_point_without_the_metric_is_in_the_table_only(data):
    first, *rest = data.frontier.points
    points = (replace(first, quality={"other": 1.0}), *rest)
    page = Page(render(replace(data, frontier=replace(data.frontier, points=points))))
    assert sum("data-row" in a for _, a in page.tags) == 10
    marks = [a["data-point"] for _, a in page.tags if "data-point" in a]
    assert marks == [str(i) for i in range(1, 10)]


# three objectives --------------------------------------------------------------------------------


@pytest.fixture
def sized(data):
    """The run as if size had been asked for, with a small point behind the fast ones."""
    first = data.frontier.points[3]
    small = replace(first, name="small", latency_ms=14.0, latency_interval_ms=(13.9, 14.1),
                    size_bytes=2_000_000)  # fmt: skip
    points = tuple(sorted((*data.frontier.points, small), key=lambda p: p.latency_ms))
    objectives = ("latency", "quality", "size")
    frontier = replace(data.frontier, points=points, objectives=objectives)
    rows = tuple(
        replace(p, predicted_bytes=1.1e6, measured_bytes=1_000_000) for p in data.predictions
    )
    options = (replace(data.options[0], size_bytes=23_456.0), data.options[1])
    goal = {**data.goal, "size": True, "max_size_mb": 40.0}
    return replace(data, frontier=frontier, predictions=rows, options=options, goal=goal)


def test_size_has_a_plot_of_its_own_beside_the_main_one(data, sized):
    page = Page(render(sized))
    marks = [a for _, a in page.tags if "data-point" in a]
    assert [a["data-point"] for a in marks] == [str(i) for i in range(11)] * 2
    main, second = marks[:11], marks[11:]
    aside = [a["data-tip"].splitlines()[0] for a in main if "aside" in a["class"]]
    assert [name.split(":")[0] for name in aside] == ["small"]
    assert all(a["data-tip"].splitlines()[-1].endswith(" MB") for a in second)
    assert "size of the bundle, MB" in page.text
    assert "size of the bundle, MB" not in Page(render(data)).text
    assert "http://" not in render(sized)


def test_places_in_the_plot_of_sizes_are_those_of_the_numbers(sized):
    second = render(sized).split('aria-label="mrr over size')[1].split("</svg>")[0]
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="6"', second)]
    by_size = sorted(range(11), key=lambda i: sized.frontier.points[i].size_bytes)
    assert [dots[i] for i in by_size] == sorted(dots)
    assert len(set(dots)) == 11


def test_predicted_sizes_stand_beside_measured_ones(sized):
    text = Page(render(sized)).text
    assert "median error of size10.0 %" in text
    assert "1.10 MB1.00 MB+10.0 %" in text
    assert "23.5 kB" in text


def test_the_curves_are_the_fronts_of_two_objectives(sized):
    names = [p.name for p in sized.fastest_for_quality()]
    assert "small" not in names
    assert len(names) == 10
    assert next(p.name for p in sized.best_for_size()) == "small"
