"""What a site does, step by step, and in which order only."""

from __future__ import annotations

import numpy as np
import pytest
from summing import WORK, Attempted, federation_of, sign_as, verifier_key

from privnb.computation import Federation
from privnb.errors import BadMessage, RosterRefused
from privnb.federated.member import Member


def test_each_step_is_taken_once_and_in_order():
    one = Attempted().until_masked()
    first = one.sites[0]
    member, inbox = one.members[first], one.inboxes[first]
    fresh = Attempted().members[first]
    for step in (
        lambda: fresh.share(one.adverts),
        lambda: fresh.mask(one.inputs[first], inbox, work=WORK),
        lambda: fresh.agree(one.survivors),
        lambda: fresh.reveal(one.survivors),
        member.advertise,
        lambda: member.share(one.adverts),
        lambda: member.mask(one.inputs[first], inbox, work=WORK),
    ):
        with pytest.raises(RosterRefused, match="not the next one") as refused:
            step()
        assert refused.value.code == "E_ROSTER"
    member.reveal(one.survivors)
    for step in (
        member.advertise,
        lambda: member.agree(one.survivors),
        lambda: member.reveal(one.survivors),
    ):
        with pytest.raises(RosterRefused, match="not the next one"):
            step()


def test_the_roster_is_who_advertised_and_then_who_made_shares():
    one = Attempted(4, 3)
    member = one.members[one.sites[0]]
    assert member.roster == ()
    one.advertise().share(one.sites[:3])
    assert member.roster == one.sites
    one.mask()
    assert member.roster == one.sites[:3]


def test_a_step_that_was_refused_can_be_taken_rightly_after():
    one = Attempted(4, 3).advertise()
    member, site = one.members[one.sites[0]], one.sites[0]
    with pytest.raises(RosterRefused):
        member.share(one.adverts[:2])
    one.share()
    with pytest.raises(RosterRefused):
        member.mask(one.inputs[site], {}, work=WORK)
    one.mask()
    with pytest.raises(RosterRefused):
        member.reveal({site: one.survivors[site]})
    one.reveal()
    assert (one.aggregator.total() == one.sum_of(one.sites)).all()


def test_a_reveal_has_one_share_of_each_site_and_of_none_both_kinds():
    one = Attempted(5, 3).advertise().share()
    one.mask(one.sites[1:]).agree()
    reveal = one.members[one.sites[1]].reveal(one.survivors, one.aggregator.agreement)
    assert set(reveal.masks) == set(one.sites[1:])
    assert set(reveal.keys) == {one.sites[0]}


def test_the_masked_vectors_of_the_same_numbers_have_nothing_in_common():
    made = []
    for _ in range(2):
        one = Attempted(length=64).advertise().share()
        made += [one.masked(site)[0] for site in one.sites]
    stacked = np.stack(made)
    # Chance would make two of 64-bit numbers equal once in 10**15 runs.
    assert len(np.unique(stacked)) == stacked.size


def test_secrets_are_forgotten_once_they_were_used():
    one = Attempted().advertise()
    member = one.members[one.sites[0]]
    seed = member._step.seed
    mask_key = member._step.mask_key.private_bytes_raw()
    one.share()
    assert not holds(member, mask_key)
    one.mask()
    assert not holds(member, seed)
    one.reveal()
    assert member._step is None


def holds(thing, secret):
    """Whether a secret is anywhere in what an object holds."""
    if isinstance(thing, bytes):
        return secret in thing
    if isinstance(thing, dict):
        return any(holds(each, secret) for each in thing.values())
    return any(holds(each, secret) for each in getattr(thing, "__dict__", {}).values())


def member_of(federation, me=None, min_sites=3):
    me = me or federation.sites[0]
    return Member(
        run="r",
        computation="c",
        attempt=1,
        me=me,
        federation=federation,
        sign=sign_as(me),
        min_sites=min_sites,
    )


@pytest.mark.parametrize(
    ("n", "threshold", "colluding"),
    [(3, 2, 0), (3, 3, 0), (3, 3, 2), (4, 3, 0), (4, 3, 1), (5, 4, 2), (50, 26, 0), (50, 40, 29)],
)
def test_a_threshold_above_half_of_all_and_those_who_collude_is_taken(n, threshold, colluding):
    member_of(federation_of(n, threshold, colluding))


@pytest.mark.parametrize(
    ("n", "threshold", "colluding", "hint"),
    [(4, 2, 0, "3"), (3, 2, 1, "3"), (5, 3, 1, "4"), (50, 25, 0, "26"), (50, 40, 30, "41")],
)
def test_a_threshold_that_protects_nobody_is_refused(n, threshold, colluding, hint):
    with pytest.raises(RosterRefused, match="does not protect") as refused:
        member_of(federation_of(n, threshold, colluding))
    assert refused.value.hint == f"Set it to {hint} or more."


@pytest.mark.parametrize(("threshold", "colluding"), [(1, 0), (0, 0), (-3, 0), (4, 0), (3, -1)])
def test_a_threshold_that_is_none_is_refused(threshold, colluding):
    with pytest.raises(RosterRefused, match="cannot be the threshold"):
        member_of(federation_of(3, threshold, colluding))


def test_a_federation_under_the_sites_minimum_is_refused():
    with pytest.raises(RosterRefused, match="has 3 sites; at least 4 are needed"):
        member_of(federation_of(3, 2), min_sites=4)


def test_a_federation_without_this_site_is_refused():
    with pytest.raises(RosterRefused, match="not in the federation"):
        member_of(federation_of(3, 2), me=verifier_key("stranger"))


def test_a_site_that_stands_in_the_federation_twice_is_refused():
    sites = federation_of(3, 2).sites
    for wrong in ((sites[0], *sites), (sites[1], sites[0], sites[2])):
        with pytest.raises(RosterRefused, match="not sorted, or one comes twice"):
            member_of(Federation(sites=wrong, threshold=3))


def test_a_site_under_two_names_is_refused():
    from summing import signing_key

    sites = federation_of(2, 2).sites
    alias = verifier_key("somebody", signing_key("site01"))
    with pytest.raises(RosterRefused, match="the same key"):
        member_of(Federation(sites=tuple(sorted((*sites, alias))), threshold=2))


def test_a_site_without_a_key_is_refused():
    sites = federation_of(2, 2).sites
    with pytest.raises(RosterRefused, match="has no key"):
        member_of(Federation(sites=tuple(sorted((*sites, "somebody"))), threshold=2))


def test_a_site_that_cannot_sign_now_can_go_on_later():
    federation, working = federation_of(3, 2), []

    def sign(data):
        if not working:
            raise OSError("the key's file is away")
        return sign_as(federation.sites[0])(data)

    member = Member(
        run="r",
        computation="c",
        attempt=1,
        me=federation.sites[0],
        federation=federation,
        sign=sign,
        min_sites=3,
    )
    with pytest.raises(OSError, match="away"):
        member.advertise()
    working.append(True)
    assert member.advertise().site == federation.sites[0]


def test_errors_name_the_site_and_not_its_whole_key():
    one = Attempted().advertise().share()
    site, other = one.sites[:2]
    with pytest.raises(BadMessage) as refused:
        one.members[site].mask(one.inputs[site], one.inboxes[site] | {other: "x"}, work=WORK)
    assert "privnb/site01/owner@site01.example" in refused.value.message
    assert "+" not in refused.value.message


def test_the_work_is_part_of_what_is_signed():
    one = Attempted().advertise().share()
    first = one.sites[0]
    view = one.members[first]._attempt.view
    context = one.members[first]._step.context
    seen = {
        view(context, roster=one.sites, work=WORK),
        view(context, roster=one.sites, work="f" * 64),
        view(context, roster=one.sites[:2], work=WORK),
        view("0" * 64, roster=one.sites, work=WORK),
    }
    assert len(seen) == 4
    assert view(context, roster=one.sites[::-1], work=WORK) in seen
