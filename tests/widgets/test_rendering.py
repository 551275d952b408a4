"""What is shown, and that nothing a site sends can do more than be read."""

from __future__ import annotations

import io
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privnb.drawing import INK
from privnb.errors import BudgetExceeded, PrivnbError, UnknownName
from privnb.estimate_rendering import estimates_html, estimates_text
from privnb.federated.drawing import draw_curves
from privnb.markup import Html, plain_table, table, tag
from privnb.output import Output, OutputColumn, declare
from privnb.release import (
    Answer,
    AnswerColumn,
    Estimate,
    EstimateLine,
    Estimates,
    PrivacyLabel,
    Receipt,
    Release,
    SiteRelease,
)
from privnb.rendering import (
    aggregate_text,
    label_text,
    lines_text,
    release_html,
    release_text,
    summary_lines,
)
from privnb.unseen import clean

HOSTILE = '<script>alert(1)</script>"onmouseover="x\u202e\x1b[2J'


class Elements(HTMLParser):
    """The names and attributes of all elements, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.names, self.attributes, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def label(**changes):
    values = {
        "mechanism": "discrete Gaussian noise",
        "epsilon": "1",
        "delta": "1e-06",
        "unit": "one person (all their rows in visits)",
        "clamps": ("mdvis to 0…30",),
        "budget": "epsilon 3 of 4 left for research",
        "not_protected": ("facts about groups",),
    }
    return PrivacyLabel(**values | changes)


def part(site, *, text="free care", **changes):
    answer = Answer(
        columns=(
            AnswerColumn(name="plan", role="key"),
            AnswerColumn(name="visits", role="aggregate"),
        ),
        rows=((text, 2.8412), (None, None)),
        half_widths=((None, 0.317), (None, None)),
        notes=("One group is too small to say anything.",),
    )
    return SiteRelease(site=site, answer=answer, label=label(**changes))


def release(*parts, problems=None):
    return Release(request="ab" * 16, digest="cd" * 32, parts=parts, problems=problems or {})


@pytest.mark.parametrize("render", [release_html, release_text])
def test_a_release_shows_values_errors_notes_and_every_line_of_its_label(render):
    shown = Elements(render(release(part("northside")))).text
    for words in (
        *("northside", "free care", "2.84 ± 0.32", "(none)", "—", "too small to say anything"),
        *("discrete Gaussian noise", "epsilon 1, delta 1e-06", "one person", "mdvis to 0…30"),
        *("epsilon 3 of 4 left", "facts about groups", "cdcdcdcdcdcdcdcd"),
    ):
        assert words in shown


def test_what_sites_agree_on_is_said_once_and_what_differs_by_name():
    two = release(part("northside"), part("riverside", budget="epsilon 2 of 4 left"))
    lines = label_text(two)
    assert lines.count("discrete Gaussian noise") == 1
    assert "northside: epsilon 3 of 4 left for research" in lines
    assert "riverside: epsilon 2 of 4 left" in lines
    assert lines.count("epsilon 1, delta 1e-06 at each site") == 1


def test_one_line_that_a_site_says_alone_does_not_repeat_the_others():
    shared, alone = "facts about groups", "what others ask"
    two = release(part("northside"), part("riverside", not_protected=(shared, alone)))
    lines = label_text(two)
    assert lines.count(shared) == 1
    assert f"northside: {shared}" not in lines
    assert f"riverside: {alone}" in lines


@pytest.mark.parametrize("render", [release_html, release_text])
def test_a_mock_answer_cannot_be_taken_for_a_real_one(render):
    shown = render(release(part("northside", mock=True)))
    assert "MOCK" in shown
    assert "Budget left" not in shown


@pytest.mark.parametrize("render", [release_html, release_text])
def test_a_site_that_refused_is_shown_beside_the_others(render):
    problem = BudgetExceeded("Too much is asked.", hint="Ask for less.")
    shown = render(release(part("northside"), problems={"riverside": problem}))
    assert "Nothing from riverside: " in Elements(shown).text
    assert "Too much is asked." in shown


def test_a_hostile_site_only_adds_text():
    hostile = release(part(HOSTILE, text=HOSTILE, mechanism=HOSTILE, budget=HOSTILE))
    honest = Elements(release_html(release(part("northside"))))
    shown = Elements(release_html(hostile))
    assert shown.names == honest.names
    assert shown.attributes == honest.attributes
    assert "<script>alert(1)</script>" in shown.text
    for text in (release_html(hostile), release_text(hostile)):
        assert "\x1b" not in text
        assert "\u202e" not in text


@given(st.text())
def test_no_text_gets_out_of_an_element(text):
    shown = Elements(tag("td", text, title=text))
    assert shown.names == ["td"]
    assert shown.attributes == ["title"]
    assert clean(text).isprintable()


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x85", "\u2028"])
def test_no_text_of_a_site_adds_a_line_to_what_is_shown(end):
    forged = f"{end}{end}lakeside{end}9,999 ± 41{end}"
    noted = replace(part("northside").answer, notes=(forged,))
    noisy = replace(part(f"north{forged}", mechanism=forged, text=forged), answer=noted)
    exact = approved(declare(forged), site=f"north{forged}")
    problems = {f"river{forged}": BudgetExceeded(forged)}
    for shown in (release(noisy, problems=problems), release(exact)):
        lines = release_text(shown).splitlines()
        assert not any(line.startswith(("lakeside", "9,999")) for line in lines)
        assert len(label_text(shown).splitlines()) == label_text(shown).count("\n") + 1
    estimates = Estimates(by_site={}, problems=problems)
    assert len(estimates_text(estimates).splitlines()) == 1
    assert len(lines_text(forged).splitlines()) == 1


@pytest.mark.parametrize("unseen", ["\u3164", "\u2800", "\u115f", "\ufe0f", "\U000e0101", "\u202e"])
def test_what_is_not_seen_leaves_a_mark(unseen):
    assert clean(f"a{unseen}b") == "a�b"


def test_html_is_not_escaped_twice():
    assert tag("p", tag("b", "a & b")) == "<p><b>a &amp; b</b></p>"
    assert isinstance(tag("p"), Html)


def test_tables_have_a_caption_and_scoped_headers():
    html = table("Sites", ["site", "left"], [["northside", "3"]])
    assert "<caption" in html
    assert html.count('scope="col"') == 2
    assert html.count('scope="row"') == 1


def test_numbers_stand_to_the_right_as_their_headings_do():
    html = table("Rounds", ["round", "words"], [["1", "x"]], numeric=[0])
    assert html.count("text-align:right") == 2


def test_plain_tables_keep_columns_below_each_other_for_wide_letters():
    lines = plain_table(["a", "b"], [["東京", "x"], ["lake", "y"]]).splitlines()
    assert lines[2] == "東京  x"
    assert lines[3] == "lake  y"


@pytest.mark.parametrize(
    ("value", "half_width", "shown"),
    [
        (1204, 29.4, ("1,204", "± 29")),
        (-0.00312, 0.00041, ("-0.00312", "± 0.00041")),
        (1.5e9, 3.2e6, ("1,500,000,000", "± 3,200,000")),
        (12, None, ("12", "")),
        (12.0, float("inf"), ("12", "")),
        (5, 0.0, ("5", "")),
        (None, 3.0, ("—", "")),
        (True, None, ("true", "")),
    ],
)
def test_numbers_keep_the_digits_their_error_leaves_meaningful(value, half_width, shown):
    assert aggregate_text(value, half_width) == shown


@pytest.mark.parametrize("render", [estimates_html, estimates_text])
def test_an_estimate_shows_price_error_and_whether_it_can_be_paid(render):
    lines = (
        EstimateLine(name="people", half_width=41.2, note="in every group"),
        EstimateLine(name="median", half_width=None),
    )
    estimate = Estimate(
        table="visits",
        epsilon="1",
        delta="1e-06",
        lines=lines,
        mechanism="discrete Gaussian noise",
        affordable=False,
    )
    shown = Elements(render(Estimates(by_site={"northside": estimate}))).text
    for words in ("northside", "epsilon 1, delta 1e-06", "± 41", "in every group", "more than"):
        assert words in shown
    assert "depends on the data" in shown


@pytest.mark.parametrize("render", [estimates_html, estimates_text])
def test_an_estimate_that_knows_no_error_says_so_once_and_names_the_terms(render):
    lines = tuple(EstimateLine(name=name, half_width=None) for name in ("intercept", "xage"))
    estimate = Estimate(table="v", epsilon="1", delta="0", lines=lines, mechanism="noise")
    shown = Elements(render(Estimates(by_site={"northside": estimate}))).text
    assert "intercept, xage: how precise depends on the data" in shown
    assert shown.count("depends on the data") == 1
    assert "where" not in shown


def test_a_cell_of_many_words_does_not_become_a_narrow_column():
    drawn = table("t", ["a", "b"], [["short", "word " * 20]])
    assert drawn.count("min-width:14em") == 1


def test_a_card_with_a_border_is_no_wider_than_its_cell():
    assert "box-sizing:border-box" in release_html(release(part("northside")))


# Approved outputs


RECEIPT = Receipt(
    event='{"kind":"release"}',
    index=17,
    proof=(),
    checkpoint="privnb/northside/o@n.example\n42\nAAAA\n\n\u2014 privnb x\n",
)


def approved(output, *, site="northside", receipt=RECEIPT, **changes):
    values = {
        "mechanism": "none: exact output",
        "epsilon": "0",
        "delta": "0",
        "unit": "nobody by noise",
        "clamps": (),
        "budget": "nothing was charged",
        "not_protected": ("single people, if the output tells of them",),
        "route": "approval",
        "approved_by": ("code: alice@clinic.example",),
        "sandbox": "level 3",
        "population": "people who consent to research",
    }
    return SiteRelease(
        site=site, output=output, label=label(**values | changes), receipt=receipt, key="k"
    )


def frame(text="female"):
    return Output(
        kind="frame",
        columns=(
            OutputColumn(name=text, type="string", role="index"),
            OutputColumn(name="mdvis", type="float", role="value"),
        ),
        rows=((text, 1234.56789), (None, None)),
    )


@pytest.fixture(scope="module")
def figure():
    from matplotlib.figure import Figure

    return declare(Figure(figsize=(2, 1), dpi=50))


@pytest.mark.parametrize("render", [release_html, release_text])
def test_an_approved_output_says_who_released_it_and_what_its_receipt_proves(render):
    shown = Elements(render(release(approved(frame())))).text
    for words in (
        *("Approved output from northside", "female", "1234.57", "\u2014"),
        *(
            "code: alice@clinic.example",
            "nobody by noise",
            "nothing was charged",
            "none: exact output",
            "level 3",
        ),
        *("people who consent to research", "event 17", "log of 42 events", "if the output tells"),
    ):
        assert words in shown
    for words in ("Privacy loss", "Budget left", "epsilon"):
        assert words not in shown


@pytest.mark.parametrize("render", [release_html, release_text])
def test_a_noisy_answer_has_its_audit_line_and_population_too(render):
    noisy = part("northside", population="people who consent to research")
    noisy = SiteRelease(site="northside", answer=noisy.answer, label=noisy.label, receipt=RECEIPT)
    shown = Elements(render(release(noisy))).text
    for words in ("event 17", "people who consent to research", "epsilon 1, delta 1e-06"):
        assert words in shown


@pytest.mark.parametrize("render", [release_html, release_text])
def test_an_output_of_the_mock_twin_cannot_be_taken_for_an_approved_one(render):
    shown = render(release(approved(frame(), mock=True, receipt=None)))
    assert "MOCK" in shown
    assert "Approved" not in shown
    assert "Released by" not in shown


def test_a_figure_is_a_picture_with_words_for_those_who_do_not_see_it(figure):
    html = release_html(release(approved(figure)))
    assert f'src="data:image/png;base64,{figure.png}"' in html
    assert 'alt="Figure from northside, 100 by 50 pixels"' in html
    assert html.count("<img") == 1
    assert "</img>" not in html
    assert "a figure of 100 by 50 pixels" in release_text(release(approved(figure)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1234567891, "0.1234567891"),
        (1977, "1977"),
        ("female", "female"),
        (True, "true"),
        (float("inf"), "inf"),
    ],
)
def test_one_value_is_shown_with_all_its_digits(value, shown):
    one = release(approved(declare(value)))
    assert shown in Elements(release_html(one)).text
    assert f"\n{shown}\n" in release_text(one)


@pytest.mark.parametrize("render", [estimates_html, estimates_text])
def test_however_much_a_site_says_of_a_price_little_of_it_is_drawn(render):
    long = "x" * 1_000_000
    line = EstimateLine(name=long, half_width=0.5, note=long)
    estimate = Estimate(
        table="visits",
        epsilon=long,
        delta=long,
        lines=(line,) * 2000,
        mechanism=long,
        notes=tuple(f"{n} {long}" for n in range(60)),
    )
    assert len(render(Estimates(by_site={"northside": estimate}))) < 500_000


def test_an_array_is_shown_by_its_rows():
    html = release_html(release(approved(declare(np.arange(6).reshape(2, 3)))))
    assert html.count("<tr") - html.split("Privacy label")[1].count("<tr") == 3
    text = release_text(release(approved(declare(np.arange(6).reshape(2, 3)))))
    assert "3  4  5" in text


def test_a_long_or_wide_table_is_cut_and_says_so():
    long = release(approved(declare(np.zeros((1000, 50)))))
    for shown in (release_html(long), release_text(long)):
        assert "800 more rows and 10 more columns: see .df" in shown
    assert release_html(long).count("<td") < 10_000


@pytest.mark.parametrize("render", [release_html, release_text])
def test_however_much_a_site_sends_little_of_it_is_drawn(render):
    long = "x" * 1_000_000
    column = AnswerColumn(name=long, role="key")
    columns = (column, *(AnswerColumn(name=f"{n}", role="key") for n in range(300)))
    answer = Answer(
        columns=columns,
        rows=((long,) * 301,) * 2000,
        half_widths=((None,) * 301,) * 2000,
        notes=(long,) * 2000,
    )
    many = tuple(f"{n} {long}" for n in range(60))
    noisy = replace(part("northside", clamps=many, not_protected=many), answer=answer)
    shown = render(release(noisy))
    assert len(shown) < 5_000_000
    assert "1,800 more rows and 261 more columns: see .df" in shown
    assert "… and 20 more" in shown
    assert len(render(release(approved(declare(long))))) < 20_000
    assert len(render(release(approved(frame(long))))) < 20_000


def test_a_hostile_output_only_adds_text():
    honest = Elements(release_html(release(approved(frame()))))
    hostile = release(approved(frame(HOSTILE), approved_by=(HOSTILE,), sandbox=HOSTILE))
    shown = Elements(release_html(hostile))
    assert shown.names == honest.names
    assert shown.attributes == honest.attributes
    for text in (release_html(hostile), release_text(hostile)):
        assert "\x1b" not in text
        assert "\u202e" not in text


@given(st.text(), st.text())
def test_no_text_gets_out_of_the_line_that_names_a_release(name, said):
    (first, *_) = summary_lines(release(approved(frame(), site=said)), name)
    assert lines_text(first).replace("\n", "").isprintable()


def test_outputs_of_several_sites_each_have_their_own_table(figure):
    two = release(approved(frame()), approved(figure, site="riverside"))
    shown = Elements(release_html(two))
    assert "Approved output from northside" in shown.text
    assert "Approved output from riverside" in shown.text
    assert shown.text.count("none: exact output") == 1


def test_a_table_is_drawn_by_its_index_and_a_picture_as_it_is(figure):
    drawn = release(approved(frame())).plot()
    assert [axes.get_title() for axes in drawn.axes] == ["mdvis"]
    assert [t.get_text() for t in drawn.axes[0].get_xticklabels()] == ["female", "(none)"]
    assert "exact values" in drawn.get_supxlabel()
    (panel,) = release(approved(figure)).plot().axes
    assert panel.get_images()[0].get_array().shape[:2] == (50, 100)


@pytest.mark.parametrize("text", ["$0-$10_000", r"$\frac$", r"\$x_1$", "a\x07b" + "c" * 1000])
def test_text_of_a_site_is_drawn_as_it_is(text):
    answer = Answer(
        columns=(
            AnswerColumn(name="income", role="key"),
            AnswerColumn(name=text, role="aggregate"),
        ),
        rows=((text, 3),),
        half_widths=((None, 1.0),),
    )
    drawn = release(replace(part("northside"), answer=answer)).plot()
    drawn.savefig(io.BytesIO(), format="png")
    (panel,) = drawn.axes
    for label in (panel.title, *panel.get_xticklabels()):
        shown, is_math = label._preprocess_math(label.get_text())
        assert not is_math
        assert shown == text if text.isprintable() else len(shown) == 60


def test_bars_of_many_long_labels_lie_beside_them():
    keys = [f"individual deductible, {number}" for number in range(12)]
    answer = Answer(
        columns=(
            AnswerColumn(name="plan", role="key"),
            AnswerColumn(name="n", role="aggregate"),
            AnswerColumn(name="visits", role="aggregate"),
        ),
        rows=tuple((key, 3, 4) for key in keys),
        half_widths=((None, 1.0, 1.0),) * 12,
    )
    drawn = release(replace(part("northside"), answer=answer)).plot()
    drawn.canvas.draw()
    first = drawn.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == keys
    boxes = [label.get_window_extent() for label in first.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert all(axes.yaxis_inverted() for axes in drawn.axes)


def test_a_plot_is_legible_on_light_and_on_dark_paper():
    drawn = release(part("northside")).plot()
    drawn.canvas.draw()
    (panel,) = drawn.axes
    assert drawn.get_facecolor()[3] == 0
    words = [panel.title, *panel.get_xticklabels(), *panel.get_yticklabels()]
    assert {label.get_color() for label in words} == {INK}


def test_a_models_curves_are_explained():
    change, share, other = draw_curves(
        {"change": ([1], [1]), "share over the limit": ([1], [0]), "train loss": ([1], [2])}
    ).axes
    assert change.get_title() == "change per round"
    assert "coefficients moved" in change.get_xlabel()
    assert "shortened" in share.get_xlabel()
    assert other.get_xlabel() == "round"


def test_what_has_no_numbers_is_not_drawn_and_a_figure_is_no_table(figure):
    with pytest.raises(UnknownName, match="no column of numbers"):
        release(approved(declare("text"))).plot()
    with pytest.raises(PrivnbError, match="no table"):
        _ = release(approved(figure)).df
