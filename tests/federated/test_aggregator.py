"""The sum is that of the survivors, whoever drops out and when, down to the threshold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from summing import WORK, Attempted

from privnb.errors import BadMessage, RosterRefused
from privnb.federated.attempt import name_of

PHASES = ("advertise", "share", "mask", "reveal")


@st.composite
def dropouts(draw):
    """Sites, colluding, threshold, and who of n - t sites drops out before which phase."""
    n = draw(st.integers(2, 7))
    colluding = draw(st.integers(0, n - 1))
    threshold = draw(st.integers(max(2, (n + colluding) // 2 + 1), n))
    gone = draw(
        st.dictionaries(st.integers(0, n - 1), st.sampled_from(PHASES), max_size=n - threshold)
    )
    return n, colluding, threshold, gone


@settings(deadline=None, derandomize=True, max_examples=80)
@given(dropouts(), st.integers(0, 5))
def test_up_to_n_less_t_dropouts_at_any_phase_leave_the_exact_sum_of_the_rest(drawn, length):
    n, colluding, threshold, gone = drawn
    one = Attempted(n, threshold, colluding=colluding, length=length, min_sites=2)

    def still(phase):
        """Who is there in a phase."""
        left = {i for i, since in gone.items() if PHASES.index(since) <= PHASES.index(phase)}
        return [site for i, site in enumerate(one.sites) if i not in left]

    one.advertise(still("advertise")).share(still("share")).mask(still("mask"))
    if one.aggregator.needs_agreement:
        one.agree(still("mask"))
    one.reveal(still("reveal"))
    assert one.aggregator.enough
    assert (one.aggregator.total() == one.sum_of(still("mask"))).all()
    assert one.aggregator.survivors == tuple(still("mask"))
    assert one.aggregator.wrong == ()


def test_whoever_agreed_may_be_gone_when_the_others_reveal():
    one = Attempted(5, 3).advertise().share()
    one.mask(one.sites[1:]).agree(one.sites[1:4]).reveal(one.sites[2:5])
    assert (one.aggregator.total() == one.sum_of(one.sites[1:])).all()


def test_fifty_sites_of_which_ten_drop_out():
    one = Attempted(50, 38, length=20).advertise()
    one.share(one.sites[2:]).mask(one.sites[6:]).agree(one.sites[6:]).reveal(one.sites[10:])
    assert (one.aggregator.total() == one.sum_of(one.sites[6:])).all()


def test_a_sum_of_many_numbers_is_exact_across_the_pieces_that_masks_are_drawn_in():
    one = Attempted(3, 2, length=40_001).until_masked().reveal()
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()


def test_without_dropouts_no_agreement_is_needed():
    one = Attempted().until_masked()
    assert not one.aggregator.needs_agreement
    one.reveal(one.sites[:2])
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()


def test_more_reveals_than_are_needed_change_nothing():
    one = Attempted(3, 2).until_masked().reveal()
    first = one.aggregator.total()
    assert (one.aggregator.total() == first).all()
    assert (first == one.sum_of(one.sites)).all()


# Too few


def named(one, *places):
    return ", ".join(name_of(one.sites[place]) for place in places)


def test_too_few_keys_are_refused_and_who_is_missing_is_named():
    one = Attempted(4, 3)
    with pytest.raises(RosterRefused) as refused:
        one.advertise(one.sites[:2])
    assert refused.value.message == (
        f"2 sites advertised keys; at least 3 are needed. Missing: {named(one, 2, 3)}."
    )
    for site in one.sites[2:]:
        one.aggregator.advertised(site, one.members[site].advertise())
    assert len(one.aggregator.close_adverts()) == 4


def test_too_few_shares_vectors_and_reveals_are_refused_and_who_is_missing_is_named():
    one = Attempted(4, 3).advertise()
    with pytest.raises(RosterRefused, match=f"made shares.*Missing: {named(one, 2, 3)}"):
        one.share(one.sites[:2])
    one.share(one.sites[2:])
    with pytest.raises(RosterRefused, match=f"sent masked vectors.*Missing: {named(one, 0, 3)}"):
        one.mask(one.sites[1:3])
    one.mask([one.sites[0]]).agree()
    one.reveal(one.sites[:2])
    assert not one.aggregator.enough
    with pytest.raises(RosterRefused, match=f"revealed shares.*Missing: {named(one, 2, 3)}"):
        one.aggregator.total()
    one.reveal([one.sites[2]])
    assert (one.aggregator.total() == one.sum_of(one.sites[:3])).all()


def test_agreement_waits_for_the_threshold():
    one = Attempted(4, 3).advertise().share()
    one.mask(one.sites[:3]).agree(one.sites[:2])
    assert one.aggregator.agreement is None
    one.agree([one.sites[2]])
    assert set(one.aggregator.agreement) == set(one.sites[:3])


# What a site sends wrongly is named, and the others' sum stays right


def test_a_vector_of_the_wrong_length_is_named_and_left_out():
    one = Attempted(3, 2).advertise().share()
    liar, *others = one.sites
    vector, confirmed = one.masked(liar)
    for wrong in (vector[:-1].tobytes(), vector.tobytes() + bytes(8), vector.tobytes()[:-1], b""):
        with pytest.raises(BadMessage, match=f"{name_of(liar)} sent a vector of the wrong length"):
            one.aggregator.masked(liar, wrong, length=4, work=WORK, confirmed=confirmed)
    one.mask(others).agree().reveal()
    assert (one.aggregator.total() == one.sum_of(others)).all()


def test_the_vectors_of_one_sum_have_one_length():
    one = Attempted(3, 2).advertise().share()
    first, second, _ = one.sites
    one.contribute(first, *one.masked(first))
    vector, confirmed = one.masked(second)
    with pytest.raises(BadMessage, match="wrong length"):
        one.aggregator.masked(
            second, vector[:2].tobytes(), length=2, work=WORK, confirmed=confirmed
        )


def test_an_answer_to_other_work_is_named_and_left_out():
    one = Attempted(3, 2).advertise().share()
    liar, *others = one.sites
    with pytest.raises(BadMessage, match=f"{name_of(liar)} is not by its key, or not for this"):
        one.contribute(liar, *one.masked(liar, work="f" * 64))
    one.mask(others).agree().reveal()
    assert (one.aggregator.total() == one.sum_of(others)).all()


def test_whoever_comes_late_or_twice_is_out():
    one = Attempted(4, 3)
    late, *others = one.sites
    one.advertise(others)
    with pytest.raises(BadMessage, match="came too late"):
        one.aggregator.advertised(late, one.members[late].advertise())
    with pytest.raises(BadMessage, match="is not in this attempt"):
        one.aggregator.shared(late, {})
    one.share()
    with pytest.raises(BadMessage, match="answered twice"):
        one.aggregator.shared(others[0], {})
    one.mask()
    with pytest.raises(BadMessage, match="answered twice"):
        one.aggregator.masked(others[0], b"", length=4, work=WORK, confirmed="")
    with pytest.raises(BadMessage, match="has no vector in this sum"):
        one.aggregator.agreed(late, "")
    one.reveal()
    assert (one.aggregator.total() == one.sum_of(others)).all()


def test_a_vector_after_the_sum_was_closed_is_too_late():
    one = Attempted(3, 2).advertise().share()
    late, *others = one.sites
    vector, confirmed = one.masked(late)
    one.mask(others)
    with pytest.raises(BadMessage, match="came too late"):
        one.contribute(late, vector, confirmed)
    one.agree().reveal()
    assert (one.aggregator.total() == one.sum_of(others)).all()


def test_a_site_outside_the_federation_is_told_so():
    one, stranger = Attempted(), Attempted(4, 3).sites[3]
    for step in (
        lambda: one.aggregator.advertised(stranger, Attempted(4, 3).members[stranger].advertise()),
        lambda: one.aggregator.shared(stranger, {}),
        lambda: one.aggregator.masked(stranger, b"", length=4, work=WORK, confirmed=""),
    ):
        with pytest.raises(BadMessage, match="is not a site of this federation"):
            step()


@pytest.mark.parametrize("text", ["", "zz" * 82, "AB" * 82, "ab" * 81, "ab" * 83, "ab" * 82 + "\n"])
def test_garbage_among_sealed_shares_is_named(text):
    one = Attempted().advertise()
    liar = one.sites[0]
    shares = one.members[liar].share(one.adverts)
    with pytest.raises(BadMessage, match=f"{name_of(liar)} sealed is not 82 bytes"):
        one.aggregator.shared(liar, shares | {one.sites[1]: text})


def test_shares_for_other_sites_than_the_others_are_named():
    one = Attempted().advertise()
    liar, second, third = one.sites
    shares = one.members[liar].share(one.adverts)
    for wrong in ({}, {second: shares[second]}, shares | {liar: shares[second]}):
        with pytest.raises(BadMessage, match="did not make a share for every other site"):
            one.aggregator.shared(liar, wrong)
    one.aggregator.shared(liar, shares)
    one.share([second, third])


def test_a_reveal_for_other_sites_or_of_garbage_is_named():
    one = Attempted().until_masked()
    liar, second, third = one.sites
    reveal = one.members[liar].reveal(one.survivors)
    moved = dataclasses.replace(
        reveal, masks={liar: "", second: ""}, keys={third: reveal.masks[third]}
    )
    with pytest.raises(BadMessage, match="of other sites than it was asked"):
        one.aggregator.revealed(liar, moved)
    garbage = dataclasses.replace(reveal, masks=reveal.masks | {second: "xyz"})
    with pytest.raises(BadMessage, match=f"{name_of(liar)} revealed is not 33 bytes"):
        one.aggregator.revealed(liar, garbage)
    one.reveal([second, third])
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()


# Wrong shares


def falsified(reveal, site=None):
    """The same reveal with a wrong share of one site, or of all."""
    wrong = {each: "11" * 33 for each in reveal.masks if site in (None, each)}
    return dataclasses.replace(reveal, masks=reveal.masks | wrong)


@pytest.mark.parametrize("place", range(4))
def test_a_site_that_reveals_wrong_shares_is_named_and_the_sum_is_right(place):
    one = Attempted(4, 3).until_masked()
    liar = one.sites[place]
    one.aggregator.revealed(liar, falsified(one.members[liar].reveal(one.survivors)))
    one.reveal([site for site in one.sites if site != liar])
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()
    assert one.aggregator.wrong == (liar,)


def test_a_wrong_share_of_a_mask_key_is_named_as_well():
    one = Attempted(5, 3).advertise().share()
    liar, *others, gone = one.sites
    one.mask(one.sites[:4]).agree()
    reveal = one.members[liar].reveal(one.survivors, one.aggregator.agreement)
    wrong = dataclasses.replace(reveal, keys={gone: "11" * 33})
    one.aggregator.revealed(liar, wrong)
    one.reveal(others)
    assert (one.aggregator.total() == one.sum_of(one.sites[:4])).all()
    assert one.aggregator.wrong == (liar,)


def test_with_too_few_right_shares_it_says_whose_do_not_fit_and_takes_more():
    one = Attempted(4, 3).until_masked()
    liar, second, third, fourth = one.sites
    one.aggregator.revealed(liar, falsified(one.members[liar].reveal(one.survivors), second))
    one.reveal([second, third])
    with pytest.raises(BadMessage, match=f"shares of {name_of(second)} that were revealed do not"):
        one.aggregator.total()
    one.reveal([fourth])
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()


def test_a_site_that_made_wrong_shares_for_many_is_named_instead_of_them():
    one = Attempted(7, 4).until_masked()
    maker = one.sites[0]
    for site in one.sites:
        reveal = one.members[site].reveal(one.survivors)
        if site in one.sites[1:3]:
            reveal = falsified(reveal, maker)
        one.aggregator.revealed(site, reveal)
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()
    assert one.aggregator.wrong == (maker,)


def test_a_site_that_masked_with_another_seed_than_it_shared_cannot_falsify_the_sum():
    one = Attempted(3, 2).advertise()
    # It has committed itself to another one.
    liar = one.sites[0]
    one.members[liar]._step = dataclasses.replace(one.members[liar]._step, seed=bytes(32))
    one.share().mask().reveal()
    with pytest.raises(BadMessage, match=f"shares of {name_of(liar)} that were revealed do not"):
        one.aggregator.total()
    assert one.aggregator.doubted == (liar,)


def test_where_nobodys_shares_fit_nobody_in_particular_is_doubted():
    one = Attempted(4, 3).until_masked()
    liar, *others = one.sites
    one.aggregator.revealed(liar, falsified(one.members[liar].reveal(one.survivors)))
    one.reveal(others[:2])
    with pytest.raises(BadMessage, match="shares of any site that were revealed do not fit"):
        one.aggregator.total()
    assert one.aggregator.doubted == ()
    one.reveal(others[2:])
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()
    assert one.aggregator.wrong == (liar,)


def test_a_masked_vector_may_come_as_a_view_of_a_larger_message():
    one = Attempted(3, 2).advertise().share()
    for site in one.sites:
        vector, confirmed = one.masked(site)
        message = b"odd" + vector.tobytes()
        one.aggregator.masked(
            site, memoryview(message)[3:], length=4, work=WORK, confirmed=confirmed
        )
    one.survivors = one.aggregator.close_vectors()
    one.reveal()
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()


def test_vectors_that_answer_different_works_are_not_one_sum():
    one = Attempted(3, 2).advertise().share()
    for number, site in enumerate(one.sites):
        work = str(number) * 64
        one.contribute(site, *one.masked(site, work=work), work=work)
    with pytest.raises(ValueError, match="one work"):
        one.aggregator.close_vectors()


def test_a_mask_leaves_the_members_own_vector_as_it_was():
    one = Attempted(3, 2).advertise().share()
    before = one.inputs[one.sites[0]].copy()
    masked, _ = one.masked(one.sites[0])
    assert (one.inputs[one.sites[0]] == before).all()
    assert not np.shares_memory(masked, one.inputs[one.sites[0]])
