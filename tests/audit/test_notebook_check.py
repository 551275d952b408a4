"""A published notebook is believed exactly as far as its receipts go."""

from __future__ import annotations

import copy
import dataclasses
import json
from types import MappingProxyType

import pytest
from audited_site import ANA, SITE, AuditedSite
from typer.testing import CliRunner

from privnb.cli import app
from privnb.errors import PrivnbError, ResultPending
from privnb.messages import Reply, fresh_salt, released_hash
from privnb.notebook_check import check_notebook
from privnb.output import Output, OutputColumn
from privnb.release import (
    RECORD_TYPE,
    Answer,
    AnswerColumn,
    PrivacyLabel,
    Release,
    SiteRelease,
)
from privnb.site.audit import record_event

DIGEST = "d" * 64
OWNERS = {"northside": "data+owner@north.example", "lakeside": "data+owner@north.example"}


def label(**changes) -> PrivacyLabel:
    values = {
        "mechanism": "discrete Gaussian noise",
        "epsilon": "1",
        "delta": "1e-06",
        "unit": "one person",
        "budget": "epsilon 3 of 4 left",
    }
    return PrivacyLabel(**values | changes)


def answer(people: float = 1204.0) -> Answer:
    columns = (AnswerColumn(name="age", role="key"), AnswerColumn(name="people", role="aggregate"))
    return Answer(columns=columns, rows=(("<40", people),), half_widths=((None, 29.0),))


def part(  # noqa: PLR0913 - keywords, each of which some test changes
    site: AuditedSite,
    *,
    request="a" * 32,
    held=(),
    name=SITE,
    analyst=ANA,
    logged=MappingProxyType({}),
    **released,
) -> SiteRelease:
    """Have a site release something, as its agent does, and take it as a session does."""
    released = released or {"answer": answer()}
    salt = fresh_salt()
    reply = Reply(request=request, digest=DIGEST, label=label(), salt=salt, **released)
    with site.database.write() as transaction:
        index = record_event(
            transaction,
            "release",
            private={"analyst": analyst},
            **{
                "request": request,
                "digest": DIGEST,
                "purpose": "research",
                "epsilon": reply.label.epsilon,
                "output": released_hash(reply),
                **logged,
            },
        )
        receipt = site.log.receipt(transaction, index, held=held)
    return SiteRelease(
        site=name,
        owner=OWNERS["northside"],
        answer=reply.answer,
        output=reply.output,
        label=reply.label,
        receipt=receipt,
        key=site.log.verifier_key,
        salt=salt,
    )


def mock() -> SiteRelease:
    """What a mock twin made up, as a session takes it."""
    return SiteRelease(site=SITE, owner=OWNERS[SITE], answer=answer(), label=label(mock=True))


def release(*parts: SiteRelease, request="a" * 32, problems=None) -> Release:
    return Release(request=request, digest=DIGEST, parts=parts, problems=problems or {})


def cell(*outputs) -> dict:
    """One code cell as Jupyter saves it: texts by lines."""
    saved = []
    for data in outputs:
        forms = {
            mime: value.splitlines(keepends=True) if isinstance(value, str) else value
            for mime, value in data.items()
        }
        saved.append({"output_type": "display_data", "metadata": {}, "data": forms})
    return {
        "cell_type": "code",
        "execution_count": 3,
        "metadata": {},
        "source": ["%%secure"],
        "outputs": saved,
    }


@pytest.fixture
def saved(tmp_path):
    """Save a notebook with a text, a print and these outputs; return its path."""

    def save(*outputs):
        text = {"cell_type": "markdown", "metadata": {}, "source": ["# Results"]}
        printed = cell()
        printed["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["hello\n"]}]
        cells = [text, printed, *(cell(data) for data in outputs)]
        notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}
        path = tmp_path / "published.ipynb"
        path.write_text(json.dumps(notebook))
        return path

    return save


@pytest.fixture
def south(tmp_path):
    site = AuditedSite(tmp_path / "south")
    yield site
    site.database.close()


def as_in_javascript(value):
    """Lose what a front end loses when it saves: that a whole number had a fraction."""
    if isinstance(value, dict):
        return {name: as_in_javascript(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_in_javascript(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def wrong(report) -> str:
    """Return what was found wrong, of a report that found something."""
    assert report.status == 1
    return "\n".join(line for line in report.lines if "WRONG" in line)


# What holds


def test_what_sites_released_is_proved(log, saved):
    path = saved(
        release(part(log)).bundle(),
        release(part(log, answer=answer(7.0), request="b" * 32), request="b" * 32).bundle(),
    )
    report = check_notebook(path, trusted=[log.key])
    assert report.status == 0
    assert report.lines[0].startswith("Cell 3 (In [3]): northside: proved: event 0 of 1, 20")
    assert report.lines[0].endswith(f", for {ANA}, research")
    assert report.lines[1].startswith("Cell 4 (In [3]): northside: proved: event 1 of 2, 20")
    assert report.lines[2].startswith("2 answers of sites proved, 0 things wrong")


def test_it_is_proved_after_jupyter_has_read_and_saved_it(log, saved):
    import nbformat

    path = saved(release(part(log, answer=answer(1000000.0))).bundle())
    nbformat.write(nbformat.read(path, 4), path)
    path.write_text(json.dumps(as_in_javascript(json.loads(path.read_text()))))
    assert check_notebook(path, trusted=[log.key]).status == 0


def test_approved_outputs_are_proved_too(log, saved):
    frame = Output(
        kind="frame",
        columns=(
            OutputColumn(name="age", type="string", role="index"),
            OutputColumn(name="mean", type="float", role="value"),
        ),
        rows=(("<40", 3.25), ("≥40", None)),
    )
    report = check_notebook(saved(release(part(log, output=frame)).bundle()), trusted=[log.key])
    assert report.status == 0


def test_the_line_that_says_where_a_release_is_stored_is_checked_as_cards_are(log, saved):
    data = release(part(log)).bundle(name="visits")
    assert check_notebook(saved(data), trusted=[log.key]).status == 0
    data[RECORD_TYPE]["name"] = "other"
    assert "shown as this version" in wrong(check_notebook(saved(data)))


def test_an_answer_shown_while_other_sites_were_silent_is_proved_for_what_it_is(log, saved):
    problems = {"lakeside": ResultPending("No answer yet.", hint="Get it later.")}
    report = check_notebook(
        saved(release(part(log), problems=problems).bundle()), trusted=[log.key]
    )
    assert report.status == 0
    assert "Cell 3 (In [3]): not proved: that lakeside gave nothing, and why." in report.lines


def test_keys_from_the_notebook_prove_nothing_until_they_are_compared(log, saved):
    report = check_notebook(saved(release(part(log)).bundle()))
    assert report.status == 3
    warning, key, fingerprint, *_ = report.lines
    assert "it proves nothing until you compare them" in warning
    assert key.strip() == log.log.verifier_key
    assert fingerprint.strip() == f"fingerprint {log.log.fingerprint}"


def test_a_site_is_shown_with_its_owner_where_two_have_one_name(log, saved):
    data = release(part(log, name=f"{SITE}@{OWNERS[SITE]}")).bundle()
    assert check_notebook(saved(data), trusted=[log.key]).status == 0


# What does not


def test_a_doctored_table_is_caught(log, saved):
    honest = release(part(log)).bundle()
    for mime in ("text/html", "text/plain"):
        data = copy.deepcopy(honest)
        assert "1,204" in data[mime]
        data[mime] = data[mime].replace("1,204", "2,204")
        said = wrong(check_notebook(saved(data), trusted=[log.key]))
        assert said == (
            "Cell 3 (In [3]): WRONG: shown as this version of privnb would not show it "
            f"({mime}): it was changed, or another version wrote it."
        )


def test_a_doctored_label_is_caught(log, saved):
    data = release(part(log)).bundle()
    data["text/html"] = data["text/html"].replace("one person", "one household")
    assert "shown as" in wrong(check_notebook(saved(data), trusted=[log.key]))


def test_a_table_doctored_together_with_what_is_kept_of_it_is_caught(log, saved):
    honest = part(log)
    doctored = dataclasses.replace(honest, answer=answer(2204.0))
    said = wrong(check_notebook(saved(release(doctored).bundle()), trusted=[log.key]))
    assert "northside: WRONG: What it shows is not what the receipt is for" in said


def test_swapped_receipts_are_caught(log, saved):
    one, two = part(log, answer=answer(1.0)), part(log, answer=answer(2.0))
    path = saved(
        release(dataclasses.replace(one, receipt=two.receipt)).bundle(),
        release(dataclasses.replace(two, receipt=one.receipt)).bundle(),
    )
    said = wrong(check_notebook(path, trusted=[log.key])).splitlines()
    assert len(said) == 2
    assert all("not what the receipt is for" in line for line in said)


def test_the_receipt_of_an_answer_to_another_question_is_caught(log, saved):
    old = part(log, request="b" * 32)
    data = release(old, request="b" * 32).bundle()
    data[RECORD_TYPE]["request"] = "a" * 32
    assert "an answer to another question" in wrong(check_notebook(saved(data), trusted=[log.key]))


def test_an_answer_that_a_site_never_gave_is_caught_by_its_key(log, south, saved):
    forged = release(part(south)).bundle()
    assert check_notebook(saved(forged)).status == 3  # by the forger's own key, which is listed
    said = wrong(check_notebook(saved(forged), trusted=[log.key]))
    assert "signed by a key that you did not name" in said
    data = copy.deepcopy(forged)
    data[RECORD_TYPE]["parts"][0]["key"] = log.log.verifier_key
    assert "not signed by the key" in wrong(check_notebook(saved(data), trusted=[log.key]))


@pytest.mark.parametrize(
    ("field", "value"), [("site", "southside"), ("owner", "other@north.example")]
)
def test_an_answer_of_one_site_shown_as_that_of_another_is_caught(log, saved, field, value):
    shown = dataclasses.replace(part(log), **{field: value})
    said = wrong(check_notebook(saved(release(shown).bundle()), trusted=[log.key]))
    assert "signed by the key of another site" in said


def test_an_event_that_is_no_release_proves_nothing(log, saved):
    made = part(log)
    reply = Reply(
        request="a" * 32, digest=DIGEST, answer=made.answer, label=made.label, salt=made.salt
    )
    with log.database.write() as transaction:
        index = record_event(transaction, "failure", output=released_hash(reply))
        receipt = log.log.receipt(transaction, index)
    data = release(dataclasses.replace(made, receipt=receipt)).bundle()
    assert "not that of a release" in wrong(check_notebook(saved(data), trusted=[log.key]))


def test_a_form_that_front_ends_would_show_instead_is_caught(log, saved):
    data = release(part(log)).bundle()
    data["text/markdown"] = "# 9,999 people"
    said = wrong(check_notebook(saved(data), trusted=[log.key]))
    assert "shown in a form that is not privnb's: text/markdown" in said


def test_two_logs_of_one_site_are_caught(log, saved, tmp_path):
    first = part(log)
    fork = log.copy(tmp_path / "fork")
    one, two = part(log, answer=answer(1.0)), part(fork, answer=answer(2.0))
    path = saved(*(release(each).bundle() for each in (first, one, two)))
    assert "signed two logs that differ" in wrong(check_notebook(path, trusted=[log.key]))
    fork.database.close()


def test_a_log_that_does_not_begin_with_an_earlier_one_is_caught(log, saved, tmp_path):
    log.fill(3)
    fork = log.copy(tmp_path / "fork")
    first = part(log)
    fork.fill(5)
    later = part(fork, held=(4,))
    path = saved(*(release(each).bundle() for each in (first, later)))
    said = wrong(check_notebook(path, trusted=[log.key]))
    assert "The log of 9 events does not begin with the log of 4" in said
    fork.database.close()


def test_an_answer_without_a_receipt_among_others_is_not_passed_over(log, saved):
    bare = release(part(log)).bundle()
    del bare[RECORD_TYPE]
    report = check_notebook(saved(release(part(log)).bundle(), bare), trusted=[log.key])
    assert report.status == 1
    assert "Cell 4 (In [3]): NOT PROVED: an answer without a receipt." in report.lines


def test_answers_of_mock_twins_need_no_receipt_but_must_say_what_they_are(log, saved):
    honest, real = release(mock()).bundle(), release(part(log)).bundle()
    report = check_notebook(saved(honest, real), trusted=[log.key])
    assert report.status == 0
    assert "mock twin" in report.lines[0]
    for old, new in (("MOCK", "REAL"), ("Mock answer", "Protected answer"), ("1,204", "9,999")):
        data = copy.deepcopy(honest)
        assert old in data["text/html"]
        data["text/html"] = data["text/html"].replace(old, new)
        assert "shown as" in wrong(check_notebook(saved(data, real), trusted=[log.key]))


def test_a_real_answer_without_its_receipt_does_not_pass_for_a_mock_one(log, saved):
    data = release(part(log)).bundle()
    data[RECORD_TYPE]["parts"][0]["receipt"] = None
    said = wrong(check_notebook(saved(data, release(part(log)).bundle()), trusted=[log.key]))
    assert "It has no receipt." in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<section", '<!-- aria-label="Mock --><section'),
        ('class="pn-release"', "class='pn-release'"),
        ('class="pn-release"', "class=pn-release"),
        ('class="pn-release"', 'class="x pn&#45;release"'),
    ],
)
def test_a_card_without_a_record_is_not_proved_however_it_is_written(log, saved, old, new):
    forged = release(part(log)).bundle()
    del forged[RECORD_TYPE]
    forged["text/html"] = forged["text/html"].replace("1,204", "9,999").replace(old, new, 1)
    for mime in ("text/html", "text/markdown", "image/svg+xml"):
        shown = {"text/plain": "x", mime: forged["text/html"]}
        report = check_notebook(saved(shown, release(part(log)).bundle()), trusted=[log.key])
        assert report.status == 1
        assert "Cell 3 (In [3]): NOT PROVED: an answer without a receipt." in report.lines


def test_one_site_shown_as_two_is_caught(log, saved):
    one = part(log)
    twin = dataclasses.replace(one, site=f"{SITE}@{OWNERS[SITE]}")
    said = wrong(check_notebook(saved(release(one, twin).bundle()), trusted=[log.key]))
    assert "twice of the same one" in said


def test_a_record_of_no_site_is_caught_whatever_it_says_of_others(log, saved):
    problems = {"lakeside": PrivnbError("all 412 patients recovered")}
    data = release(part(log), problems=problems).bundle(name="x")
    data[RECORD_TYPE]["parts"] = []
    assert "it is of no site" in wrong(check_notebook(saved(data), trusted=[log.key]))


def test_it_is_said_that_sites_and_answers_may_have_been_left_out(log, saved):
    report = check_notebook(saved(release(part(log)).bundle()), trusted=[log.key])
    assert "Answers, and sites of an answer, may have been left out." in report.lines[-1]


@pytest.mark.parametrize(
    "logged", [{"epsilon": "0.0001"}, {"request": "b" * 32}, {"digest": "e" * 64}]
)
def test_a_log_that_tells_of_another_release_proves_nothing(log, saved, logged):
    data = release(part(log, logged=logged)).bundle()
    said = wrong(check_notebook(saved(data), trusted=[log.key]))
    assert "logged it as the answer to another question" in said


def test_it_is_said_whom_an_answer_was_for(log, saved):
    data = release(part(log, analyst="bob@rival.example")).bundle()
    report = check_notebook(saved(data), trusted=[log.key])
    assert "for bob@rival.example, research" in report.lines[0]
    data[RECORD_TYPE]["parts"][0]["receipt"]["openings"] = None
    assert "or to nobody" in wrong(check_notebook(saved(data), trusted=[log.key]))


def test_a_receipt_that_is_not_linked_yet_is_said_to_be_so(log, saved):
    unlinked = dataclasses.replace(part(log), linked=False)
    data = release(unlinked).bundle()
    assert "is still to be proved" in data["text/html"]
    assert check_notebook(saved(data), trusted=[log.key]).status == 0
    data[RECORD_TYPE]["parts"][0]["linked"] = True
    assert "shown as" in wrong(check_notebook(saved(data), trusted=[log.key]))


def test_a_release_in_another_script_is_as_large_as_it_is_when_it_travels(log, saved):
    text = "統" * (5 * 1024 * 1024)
    table = Answer(
        columns=(AnswerColumn(name="k", role="key"),), rows=((text,),), half_widths=((None,),)
    )
    record = {**release(part(log, answer=table)).record()}
    data = {"text/plain": "x", RECORD_TYPE: record}
    report = check_notebook(saved(data), trusted=[log.key])
    assert not any("are read" in line for line in report.lines)
    assert report.lines[0].startswith("Cell 3 (In [3]): northside: proved")


def test_a_notebook_without_receipts_says_so(log, saved):
    report = check_notebook(saved({"text/plain": "5"}))
    assert report.status == 2
    assert report.lines == (
        "There are no receipts in this notebook: nothing in it can be checked.",
    )
    bare = release(part(log)).bundle()
    del bare[RECORD_TYPE]
    assert check_notebook(saved(bare)).status == 2


@pytest.mark.parametrize(
    ("way", "value"),
    [
        ((), None),
        ((), []),
        ((), "record"),
        (("version",), 2),
        (("parts",), None),
        (("parts", 0), None),
        (("parts", 0, "key"), ""),
        (("parts", 0, "key"), "x\x1b[2J+00000000+AAAA"),
        (("parts", 0, "receipt"), None),
        (("parts", 0, "receipt", "index"), "0"),
        (("parts", 0, "receipt", "proof"), ["x"]),
        (("parts", 0, "receipt", "checkpoint"), ""),
        (("parts", 0, "receipt", "event"), "{}"),
        (("parts", 0, "released"), "{}"),
        (("parts", 0, "released"), "\ud800"),
        (("problems",), {"lakeside": None}),
        (("name",), 5),
        (("more",), "field"),
    ],
)
def test_a_record_that_makes_no_sense_is_wrong_and_not_a_crash(log, saved, way, value):
    data = release(part(log)).bundle()
    inner = data
    for step in (RECORD_TYPE, *way)[:-1]:
        inner = inner[step]
    inner[(RECORD_TYPE, *way)[-1]] = value
    report = check_notebook(saved(data), trusted=[log.key])
    assert wrong(report)
    assert "\x1b" not in "".join(report.lines)


def test_a_signed_release_that_is_no_table_is_wrong_and_not_a_crash(log, saved):
    broken = dataclasses.replace(answer(), half_widths=())
    data = release(part(log)).bundle()
    odd = part(log, answer=broken)
    record = release(odd).record()
    data[RECORD_TYPE] = record
    assert "cannot be shown" in wrong(check_notebook(saved(data), trusted=[log.key]))


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"cells": 5}', "[" * 100_000])
def test_what_is_no_notebook_is_an_error(tmp_path, content):
    path = tmp_path / "x.ipynb"
    path.write_text(content)
    with pytest.raises(PrivnbError):
        check_notebook(path)
    with pytest.raises(PrivnbError, match="cannot be read"):
        check_notebook(tmp_path / "nowhere.ipynb")


@pytest.mark.parametrize(
    "cells", [[None], [5], [{}], [{"outputs": 5}], [{"outputs": [None, {}, {"data": 5}]}]]
)
def test_cells_that_make_no_sense_show_nothing(tmp_path, cells):
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert check_notebook(path).status == 2


# The command


def command(*words):
    return CliRunner().invoke(app, ["audit", "check-notebook", *map(str, words)])


def test_the_command_ends_with_what_was_found(log, saved):
    data = release(part(log)).bundle()
    held = command(saved(data), "--key", log.key)
    assert held.exit_code == 0
    assert "northside: proved" in held.output
    data["text/plain"] += " "
    assert command(saved(data), "--key", log.key).exit_code == 1
    assert command(saved({"text/plain": "5"})).exit_code == 2
    assert command(saved(data), "--key", "nonsense").exit_code == 1
