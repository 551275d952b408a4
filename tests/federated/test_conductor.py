"""A run as the analyst's side drives it: what it does when sites are slow, wrong, or gone."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))

from in_process import QUICK, Troupe, constant, vector_of

from privnb.errors import (
    BadMessage,
    BudgetExceeded,
    PrivnbError,
    RosterRefused,
    RoundLost,
    RunStalled,
    SiteFailure,
)
from privnb.federated import ring
from privnb.federated.asking import Pace, RunStopped
from privnb.federated.conductor import RoundSpent
from privnb.federated.messages import Told, Work, work_digest
from privnb.federated.vectors import forms_of, mean_of, packed
from privnb.messages import Problem

IMPATIENT = dataclasses.replace(QUICK, deadline=0.6)


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    """Load what the first sum loads, so that no deadline of a test is spent on it."""
    with Troupe([constant(1)] * 3, pace=Pace()) as troupe:
        troupe.gather()
        troupe.conductor.sum(Work(kind="totals", round=1), length=1)


def total(troupe, number=1, **options):
    """Sum one integer of every site."""
    work = Work(kind="totals", round=number)
    summed = troupe.conductor.sum(work, length=1, **options)
    (value,) = ring.to_integers(summed.total)
    return value, set(summed.sites)


def states(troupe, number=1):
    return dict(troupe.board.progress.by_round[number - 1].sites)


def silent(site, ask, told, vector):
    return None


def failing(code, message="It failed.", hint="Go on."):
    def instead(site, ask, told, vector):
        problem = Problem(code=code, message=message, hint=hint)
        return Told(step=ask.step, attempt=ask.attempt, problem=problem), b""

    return instead


def test_the_sum_is_exact_and_over_all_sites():
    with Troupe([constant(3), constant(-40), constant(500)]) as troupe:
        troupe.gather()
        assert total(troupe) == (463, {"northside", "riverside", "lakeside"})
        assert set(states(troupe).values()) == {"received"}


def test_keys_are_made_along_the_way_so_that_a_steady_round_asks_twice():
    with Troupe([constant(1)] * 3) as troupe:
        troupe.gather()
        for number in (1, 2, 3):
            assert total(troupe, number)[0] == 3
        steps = [ask.step for ask in troupe.sites[0].asked]
        assert steps == ["advertise", "share", *["contribute", "reveal"] * 3]


def test_the_last_round_makes_no_keys_for_another():
    with Troupe([constant(1)] * 3) as troupe:
        troupe.gather()
        total(troupe, more=False)
        assert troupe.sites[0].asked[-2].following is None


def test_a_silent_site_is_left_out_of_the_sum_and_named():
    with Troupe([constant(3), constant(4), constant(5)]) as troupe:
        troupe.gather()
        troupe.site("lakeside").on["contribute"] = silent
        assert total(troupe) == (7, {"northside", "riverside"})
        assert states(troupe)["lakeside"] == "dropped"
        assert "lakeside does not answer." in troupe.board.progress.remarks


def test_a_slow_site_is_marked_late_then_left_out_and_is_back_once_it_has_answered():
    answered = threading.Event()

    def slow(work, arrays):
        while work.round == 1 and not answered.wait(0.01):
            shown.add(states(troupe)["lakeside"])
        return ring.from_integers([100]), None

    shown = set()
    with Troupe([constant(1), constant(2), slow]) as troupe:
        troupe.conductor._pace = dataclasses.replace(QUICK, late=2.5)
        troupe.gather()
        assert total(troupe)[1] == {"northside", "riverside"}
        assert {"training", "late"} <= shown
        answered.set()
        assert total(troupe, 2) == (103, {"northside", "riverside", "lakeside"})


def test_a_site_that_is_restarted_in_a_round_is_left_out_at_once_and_back_in_the_next():
    def die(site, ask, told, vector):
        site.on.clear()
        site.restart()
        return failing("E_RESTARTED")(site, ask, told, vector)

    with Troupe([constant(1), constant(2), constant(4)], pace=Pace()) as troupe:
        troupe.gather()
        troupe.site("riverside").on["contribute"] = die
        begun = time.monotonic()
        assert total(troupe) == (5, {"northside", "lakeside"})
        assert time.monotonic() - begun < Pace().late  # nobody waits for who has said it
        assert total(troupe, 2) == (7, {"northside", "riverside", "lakeside"})
        assert troupe.board.progress.remarks == ("riverside was restarted.",)


def test_a_site_that_joins_again_instead_of_answering_has_lost_its_keys():
    def die(site, ask, told, vector):
        site.on.clear()
        site.restart()

    with Troupe([constant(1), constant(2), constant(4)], pace=Pace()) as troupe:
        troupe.gather()
        troupe.site("riverside").on["contribute"] = die
        assert total(troupe) == (5, {"northside", "lakeside"})
        assert total(troupe, 2)[0] == 7


def test_a_site_that_dies_after_its_part_is_in_does_not_take_the_sum_with_it():
    def die(site, ask, told, vector):
        site.dead = True

    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        troupe.gather()
        troupe.site("riverside").on["reveal"] = die
        assert total(troupe) == (7, {"northside", "riverside", "lakeside"})


def test_a_site_gone_for_good_ends_the_run_with_its_name_where_too_few_are_left():
    with Troupe([constant(1), constant(2), constant(4)], pace=IMPATIENT) as troupe:
        troupe.gather()
        total(troupe)
        troupe.site("lakeside").dead = True
        total(troupe, 2)
        with pytest.raises(RunStalled, match=r"Round 3 needs 3 sites, and lakeside has gone") as e:
            total(troupe, 3)
        assert "%privnb result abababab" in e.value.hint


def test_a_site_gone_for_good_is_done_without_where_enough_are_left():
    with Troupe([constant(1), constant(2), constant(4), constant(8)]) as troupe:
        troupe.gather()
        troupe.site("lakeside").dead = True
        for number in (1, 2, 3):
            assert total(troupe, number) == (11, {"northside", "riverside", "hillside"})


def test_a_run_waits_for_a_site_that_comes_back_within_the_deadline():
    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        troupe.gather()
        total(troupe)
        troupe.site("lakeside").dead = True
        total(troupe, 2)
        threading.Timer(0.3, troupe.site("lakeside").restart).start()
        assert total(troupe, 3)[0] == 7


def garbled(site, ask, told, vector):
    return told, vector[:-1]


def forged(site, ask, told, vector):
    return dataclasses.replace(told, confirmed="00" * 64), vector


def other_step(site, ask, told, vector):
    return dataclasses.replace(told, step="reveal"), vector


@pytest.mark.parametrize(
    "instead",
    [
        garbled,
        forged,
        other_step,
        failing("E_EXECUTION", "It could not be computed."),
        failing("\x1b[2J", "\x1b[31mred"),
    ],
)
def test_a_site_that_sends_nonsense_is_left_out_and_named_and_the_run_goes_on(instead):
    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        troupe.gather()
        troupe.site("riverside").on["contribute"] = instead
        for number in (1, 2):
            assert total(troupe, number) == (5, {"northside", "lakeside"})
        (remark,) = troupe.board.progress.remarks  # said once in a row
        assert remark.startswith("riverside is left out: ")
        assert remark.isprintable()
        troupe.site("riverside").on.clear()
        assert total(troupe, 3)[0] == 7


def test_a_message_that_is_no_message_is_left_out():
    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        troupe.gather()
        site = troupe.site("riverside")
        site.on["contribute"] = lambda *_: site.wires.answers.__setitem__(
            (site.owner, f"{site.asked[-1].attempt:06d}-contribute"), b"\xff" * 40
        )
        assert total(troupe) == (5, {"northside", "lakeside"})


SENT = {"0": np.zeros(3)}


def trained(troupe, kind="train"):
    work = Work(kind=kind, round=1, arrays=forms_of(SENT))
    return troupe.conductor.sum(work, packed(SENT))


def giving(*shape, metrics=("loss",), **form_changes):
    """A site that gives ones of a shape, or none without one."""

    def work(asked, arrays):
        given = [np.ones(shape)] if shape else []
        vector, form = vector_of(given, dict.fromkeys(metrics, 1.0), 2.0, parties=3)
        if form_changes:
            changed = (dataclasses.replace(form.arrays[0], **form_changes),)
            form = dataclasses.replace(form, arrays=changed)
        return vector, form

    return work


@pytest.mark.parametrize(
    "other", [giving(4), giving(), giving(3, metrics=("other",)), giving(3, shape=(-4, 2**40))]
)
def test_arrays_or_metrics_of_another_form_are_left_out(other):
    with Troupe([giving(3), giving(3), other]) as troupe:
        troupe.gather()
        summed = trained(troupe)
        assert set(summed.sites) == {"northside", "riverside"}
        assert mean_of(summed.total, summed.form).arrays["0"].tolist() == [1, 1, 1]
        assert "another form" in troupe.board.progress.remarks[0]


def test_a_site_that_gives_arrays_where_none_are_asked_cannot_push_the_others_out():
    with Troupe([giving(), giving(), giving(3)]) as troupe:
        troupe.gather()
        assert set(trained(troupe, "evaluate").sites) == {"northside", "riverside"}


def test_what_all_sites_say_is_raised_and_not_asked_for_again():
    with Troupe([constant(1)] * 3) as troupe:
        troupe.gather()
        for site in troupe.sites:
            site.on["contribute"] = failing("E_EXECUTION", "It could not be computed.")
        with pytest.raises(SiteFailure, match=r"Round 1 failed at .*It could not be computed"):
            total(troupe)
        asked = [ask for ask in troupe.sites[0].asked if ask.step == "contribute"]
        assert len(asked) == 1


def test_keys_that_are_not_signed_by_a_site_are_not_taken_and_it_is_named():
    def changed(site, ask, told, vector):
        advert = dataclasses.replace(told.advert, signature="00" * 64)
        return dataclasses.replace(told, advert=advert), vector

    with Troupe([constant(1)] * 3) as troupe:
        troupe.gather()
        troupe.site("riverside").on["advertise"] = changed
        with pytest.raises(BadMessage, match="riverside takes no part"):
            total(troupe)


def test_a_sum_that_was_not_opened_is_asked_for_again_over_the_same_sites_only():
    once = []

    def mute(site, ask, told, vector):
        once.append(site.name)
        return None if once.count(site.name) == 1 else (told, vector)

    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        troupe.gather()
        troupe.site("lakeside").on["contribute"] = silent
        for site in troupe.sites:
            site.on["reveal"] = mute
        troupe.site("northside").on["agree"] = lambda site, ask, told, vector: (told, vector)
        back = threading.Timer(1.0, lambda: troupe.site("lakeside").on.pop("contribute"))
        back.start()
        for name in ("northside", "riverside"):
            threading.Timer(1.2, troupe.site(name).restart).start()
        threading.Timer(1.2, troupe.site("lakeside").restart).start()
        assert total(troupe) == (3, {"northside", "riverside"})
        assert set(troupe.memory.open.values()) == {
            frozenset(troupe.site(name).verifier_key for name in ("northside", "riverside"))
        }
        troupe.site("lakeside").on.clear()
        assert total(troupe, 2)[0] == 7


def test_over_whom_a_sum_was_being_opened_is_known_to_a_later_kernel():
    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        troupe.gather()
        troupe.site("lakeside").on["contribute"] = silent
        total(troupe)
        troupe.site("lakeside").on.clear()
        troupe.site("lakeside").restart()
        troupe.conductor.close()
        troupe.conductor = troupe.new_conductor()
        troupe.gather()
        assert total(troupe) == (3, {"northside", "riverside"})


def test_vectors_that_were_too_few_are_asked_for_again_once_their_sites_are_back():
    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        troupe.gather()
        for site in troupe.sites[1:]:
            site.on["contribute"] = lambda site, *_: site.on.clear()
            threading.Timer(0.8, site.restart).start()
        assert total(troupe)[0] == 7
        assert [ask.step for ask in troupe.sites[0].asked].count("contribute") == 2


def unopened(troupe, *, gone):
    """Let a sum of three be under way when two of its sites go before they open it."""

    def die(site, ask, told, vector):
        site.dead = True

    troupe.gather()
    for name in gone:
        troupe.site(name).on["reveal"] = die


def back(troupe, *names):
    for name in names:
        troupe.site(name).on.clear()
        troupe.site(name).restart()


def test_a_sum_whose_sites_went_before_it_was_open_is_had_once_they_are_back():
    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        unopened(troupe, gone=("riverside", "lakeside"))
        threading.Timer(1.0, back, (troupe, "riverside", "lakeside")).start()
        assert total(troupe)[0] == 7
        assert [ask.step for ask in troupe.sites[0].asked].count("contribute") == 2


def test_a_sum_that_was_being_opened_waits_for_its_sites_and_says_for_whom():
    with Troupe([constant(1)] * 4, pace=IMPATIENT) as troupe:
        unopened(troupe, gone=("riverside", "lakeside"))
        words = "only be summed over northside, riverside, lakeside and hillside, and riverside"
        threading.Timer(0.8, back, (troupe, "lakeside")).start()
        with pytest.raises(RunStalled, match=words):
            total(troupe)
        back(troupe, "riverside")
        assert total(troupe)[0] == 4


def test_a_sum_that_was_being_opened_is_lost_with_a_site_that_takes_no_part_any_more():
    with Troupe([constant(1)] * 4) as troupe:
        unopened(troupe, gone=("riverside", "lakeside"))
        troupe.site("riverside").on["reveal"] = lambda site, *_: troupe.said.update(
            riverside=PrivnbError("Consent was withdrawn.", code="E_NO_GRANT")
        )
        threading.Timer(0.8, back, (troupe, "lakeside")).start()
        with pytest.raises(RoundLost, match=r"riverside takes no part any more: Consent was"):
            total(troupe)


def test_where_another_round_will_do_nobody_is_waited_for_long():
    with Troupe([constant(1)] * 4, pace=Pace(quick=0.5, grace=0.3, late=0.3)) as troupe:
        unopened(troupe, gone=("riverside", "lakeside"))
        threading.Timer(0.8, back, (troupe, "lakeside")).start()
        with pytest.raises(RoundLost, match=r"Round 1 can only be .* riverside has gone"):
            total(troupe, replaceable=True)
        assert total(troupe, 2)[1] == {"northside", "lakeside", "hillside"}


def test_a_round_that_is_spent_everywhere_is_over_and_says_what_to_do_next():
    with Troupe([constant(1)] * 3, rounds=2) as troupe:
        troupe.gather()
        for site in troupe.sites:
            site.on["contribute"] = failing("E_SPENT_ROUND", "It gave its part before.")
        with pytest.raises(RoundSpent, match="gave its part before") as spent:
            total(troupe, replaceable=True)
        assert spent.value.hint == "Go on."
        with pytest.raises(RoundSpent, match="gave its part before") as spent:
            total(troupe, 2)
        assert spent.value.hint == "Ask for a new run."  # there is no next round


# Sites that have no room


def busy(times, value):
    """A site that says so often that it has no room, and gives its part then."""
    said = []

    def work(asked, arrays):
        if len(said) < times:
            said.append(asked.round)
            raise PrivnbError("The site is busy.", code="E_BUSY")
        return constant(value)(asked, arrays)

    return work


@pytest.mark.parametrize("count", [1, 3])
def test_a_site_that_has_no_room_is_asked_again_until_it_has(count):
    works = [busy(1 if place < count else 0, 2**place) for place in range(3)]
    with Troupe(works, threshold=3) as troupe:
        troupe.gather()
        assert total(troupe)[0] == 7
        asked = [ask.attempt for ask in troupe.sites[0].asked if ask.step == "contribute"]
        assert asked == [1, 1]
        assert troupe.board.progress.remarks == ()


def test_a_site_that_has_no_room_for_long_is_left_out_like_one_that_is_late():
    with Troupe([constant(1), constant(2), busy(100, 4)]) as troupe:
        troupe.gather()
        assert total(troupe) == (3, {"northside", "riverside"})
        assert states(troupe)["lakeside"] == "dropped"
        troupe.site("lakeside").work = constant(4)
        assert total(troupe, 2)[0] == 7


def test_a_round_for_which_too_few_have_room_can_be_taken_up_again():
    with Troupe([constant(1), constant(1), busy(100, 1)], threshold=3, pace=IMPATIENT) as troupe:
        troupe.gather()
        with pytest.raises(RunStalled, match=r"Round 1 .*: lakeside had no room for it") as stalled:
            total(troupe)
        assert "%privnb result abababab" in stalled.value.hint
        troupe.site("lakeside").work = constant(1)
        assert total(troupe)[0] == 3


# What sites summed before


def summed_before(troupe, *names, number=1):
    """Let the sites have summed a round in an earlier run, over these of them."""
    digest = work_digest(Work(kind="totals", round=number))
    for name in names:
        keys = {troupe.site(each).verifier_key for each in names}
        troupe.site(name).summed[digest] = keys


def test_what_fewer_sites_summed_in_an_earlier_run_is_summed_over_these_again():
    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        summed_before(troupe, "northside", "lakeside")
        troupe.gather()
        assert total(troupe) == (5, {"northside", "lakeside"})
        assert total(troupe, 2)[0] == 7


def test_what_more_sites_summed_in_an_earlier_run_waits_for_them():
    with Troupe([constant(1), constant(2), constant(4), constant(8)]) as troupe:
        summed_before(troupe, "northside", "riverside", "lakeside", "hillside")
        troupe.site("hillside").dead = True
        troupe.gather()
        threading.Timer(1.2, troupe.site("hillside").restart).start()
        assert total(troupe) == (15, {"northside", "riverside", "lakeside", "hillside"})
        assert len(troupe.site("northside").asked) < 20


def test_a_site_that_does_not_come_back_for_what_it_summed_before_is_named():
    with Troupe([constant(1)] * 4, pace=IMPATIENT) as troupe:
        summed_before(troupe, "northside", "riverside", "lakeside", "hillside")
        troupe.site("hillside").dead = True
        troupe.gather()
        with pytest.raises(RunStalled, match=r"only be summed over .* and hillside has gone"):
            total(troupe)
        assert len(troupe.site("northside").asked) < 20


def test_what_was_summed_with_a_site_that_is_not_asked_at_all_is_refused_in_its_words():
    with Troupe([constant(1)] * 3) as troupe:
        summed_before(troupe, "northside", "riverside", "lakeside")
        for site in troupe.sites:
            (keys,) = site.summed.values()
            keys.add("privnb/seaside/owner@seaside.example+00000000+AA==")
        troupe.gather()
        with pytest.raises(RosterRefused, match=r"failed at .*It was summed over others"):
            total(troupe)


def test_a_single_site_cannot_say_over_whom_the_others_are_summed():
    with Troupe([constant(1), constant(2), constant(4)]) as troupe:
        summed_before(troupe, "northside", "riverside")
        troupe.site("northside").summed.clear()
        troupe.gather()
        assert total(troupe) == (7, {"northside", "riverside", "lakeside"})


# Shares that do not fit


def shares_others(site, *, times):
    """Let a site share other secrets than those of its keys, in its next attempts."""
    new_member, left = site.new_member, [None] * times

    def new(attempt):
        member = new_member(attempt)
        honest = member.share

        def share(adverts):
            if left:
                left.pop()
                other = X25519PrivateKey.generate()
                member._step = dataclasses.replace(member._step, mask_key=other, seed=bytes(32))
            return honest(adverts)

        member.share = share
        return member

    site.new_member = new


def test_a_site_whose_shares_do_not_fit_is_named_and_left_out_of_the_next_attempt():
    with Troupe([constant(1), constant(2), constant(4), constant(8)]) as troupe:
        troupe.gather()
        site = troupe.site("riverside")
        shares_others(site, times=1)
        site.on["contribute"] = silent
        assert total(troupe) == (13, {"northside", "lakeside", "hillside"})
        site.on.clear()
        remarks = " ".join(troupe.board.progress.remarks)
        assert "The shares that riverside made do not fit together" in remarks
        site.restart()
        assert total(troupe, 2)[0] == 15


def test_a_sum_with_a_site_whose_shares_never_fit_is_lost_and_the_next_goes_on_without_it():
    with Troupe([constant(1), constant(2), constant(4), constant(8)]) as troupe:
        troupe.gather()
        shares_others(troupe.site("riverside"), times=100)
        with pytest.raises(RoundLost, match=r"riverside takes no part any more: The shares that"):
            total(troupe)
        assert total(troupe, 2) == (13, {"northside", "lakeside", "hillside"})


def test_shares_that_fit_once_they_are_made_anew_open_the_sum():
    with Troupe([constant(1), constant(2), constant(4), constant(8)]) as troupe:
        troupe.gather()
        shares_others(troupe.site("riverside"), times=1)
        assert total(troupe)[0] == 15


def test_too_few_sites_whose_shares_fit_end_in_an_error_that_names_the_other():
    with Troupe([constant(1)] * 3) as troupe:
        troupe.gather()
        shares_others(troupe.site("riverside"), times=100)
        with pytest.raises(BadMessage, match=r"riverside takes no part: The shares that riverside"):
            total(troupe)


def test_numbers_of_attempts_never_come_twice_not_even_in_a_later_kernel():
    with Troupe([constant(1)] * 3) as troupe:
        troupe.gather()
        total(troupe)
        troupe.conductor.close()
        troupe.conductor = troupe.new_conductor()
        troupe.gather()
        total(troupe, 2)
        adverts = [a.attempt for a in troupe.sites[0].asked if a.step == "advertise"]
        following = [a.following for a in troupe.sites[0].asked if a.following]
        assert len({*adverts, *following}) == len([*adverts, *following])


def test_sites_that_joined_before_are_asked_at_once_by_a_later_kernel():
    with Troupe([constant(1)] * 3) as troupe:
        troupe.gather()
        troupe.conductor.close()
        troupe.conductor = troupe.new_conductor()
        troupe.gather()
        assert total(troupe)[0] == 3


def test_a_refusal_is_raised_with_the_name_where_too_few_are_left():
    with Troupe([constant(1)] * 3) as troupe:
        troupe.said["riverside"] = BudgetExceeded("Too much.", hint="Ask for less.")
        with pytest.raises(BudgetExceeded, match="riverside takes no part: Too much") as refused:
            troupe.gather()
        assert refused.value.hint == "Ask for less."


def test_a_refusal_is_done_without_where_enough_are_left():
    with Troupe([constant(1), constant(2), constant(4), constant(8)]) as troupe:
        troupe.said["riverside"] = BudgetExceeded("Too much.")
        troupe.gather()
        assert total(troupe) == (13, {"northside", "lakeside", "hillside"})
        assert troupe.board.progress.joined["riverside"] == "Too much."


def test_sites_that_end_their_part_in_the_middle_are_out_with_their_reason():
    def every_round(troupe):
        for number in range(2, 200):
            total(troupe, number)

    with Troupe([constant(1)] * 4, rounds=200) as troupe:
        troupe.gather()
        total(troupe)
        for name in ("riverside", "lakeside"):
            troupe.said[name] = PrivnbError("Consent was withdrawn.", code="E_NO_GRANT")
        with pytest.raises(PrivnbError, match="riverside takes no part: Consent was withdrawn"):
            every_round(troupe)


def test_that_a_site_has_joined_may_be_known_by_what_it_says_of_itself():
    with Troupe([constant(1)] * 3) as troupe:
        troupe.wires.hear(troupe.sites[0].owner, "", "000000-join")  # taken by a kernel that died
        said = {"northside": "joined", "riverside": "waiting for review"}
        troupe.conductor.gather(people_decide=True, says=lambda: said)
        assert total(troupe)[0] == 3


def test_a_word_of_joining_that_comes_after_it_was_known_is_no_restart():
    with Troupe([constant(1)] * 3, pace=Pace()) as troupe:
        site = troupe.sites[0]
        troupe.wires.hear(site.owner, "", "000000-join")
        troupe.conductor.gather(people_decide=True, says=lambda: {site.name: "joined"})
        site.on["contribute"] = lambda site, ask, told, vector: (
            site.join(),
            threading.Event().wait(0.1),  # so that it is found before the answer
            (told, vector),
        )[-1]
        assert total(troupe) == (3, {"northside", "riverside", "lakeside"})
        assert troupe.board.progress.remarks == ()


def test_an_exchange_that_goes_away_and_comes_back_does_not_end_the_run():
    with Troupe([constant(1)] * 3, pace=Pace()) as troupe:
        troupe.gather()
        total(troupe)
        troupe.wires.gone = True
        threading.Timer(0.3, lambda: setattr(troupe.wires, "gone", False)).start()
        assert total(troupe, 2)[0] == 3


def test_it_stops_when_it_is_told_to_whatever_it_waits_for():
    with Troupe([constant(1)] * 3, pace=Pace()) as troupe:
        troupe.gather()
        for site in troupe.sites:
            site.on["contribute"] = silent
        threading.Timer(0.1, troupe.stopping.set).start()
        with pytest.raises(RunStopped):
            total(troupe)


def test_a_site_that_always_says_that_it_was_restarted_ends_in_an_error_not_in_a_busy_loop():
    with Troupe([constant(1)] * 3, pace=IMPATIENT) as troupe:
        troupe.gather()
        troupe.site("riverside").on["advertise"] = failing("E_RESTARTED")
        with pytest.raises(RunStalled):
            total(troupe)
        assert len(troupe.site("riverside").asked) < 20


def test_an_agent_that_shows_no_sign_of_life_is_not_waited_for():
    pace = dataclasses.replace(Pace(), silent=0.3)
    with Troupe([constant(1), constant(2), constant(4)], pace=pace) as troupe:
        seen = time.monotonic()
        owner = troupe.site("lakeside").owner
        troupe.conductor._asking._alive = lambda: {owner: seen}
        troupe.gather()
        troupe.site("lakeside").on["contribute"] = silent
        begun = time.monotonic()
        assert total(troupe)[1] == {"northside", "riverside"}
        assert time.monotonic() - begun < pace.late


def test_the_end_is_told_to_all_sites_that_are_still_in_it():
    with Troupe([constant(1)] * 4) as troupe:
        troupe.said["hillside"] = BudgetExceeded("Too much.")
        troupe.gather()
        total(troupe)
        troupe.conductor.end(finished=True)
        for site in troupe.sites:
            site.stop()
        assert [site.ended for site in troupe.sites] == [True, True, True, None]


@pytest.mark.timeout(120)
def test_fifty_sites_add_up():
    pace = dataclasses.replace(Pace(), settle=60)
    with Troupe([constant(number) for number in range(50)], rounds=2, pace=pace) as troupe:
        troupe.gather()
        everybody = sum(range(50))
        assert total(troupe)[0] == everybody
        for site in troupe.sites[:10]:
            site.on["contribute"] = failing("E_EXECUTION")
        value, sites = total(troupe, 2)
        assert value == everybody - sum(range(10))
        assert len(sites) == 40
