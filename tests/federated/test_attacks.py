"""What an analyst who does not keep to the rules, or a site that helps it, tries; all is refused.

The analyst passes everything on, so each attack is something else that one site is told.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from summing import WORK, Attempted, sign_as, signing_key, verifier_key

from privnb.errors import BadMessage, RosterRefused
from privnb.federated import masks
from privnb.federated.attempt import name_of
from privnb.federated.member import Member

# All encodings of points of small order on Curve25519 and its twist, without and with the top bit
# that is not looked at (RFC 7748, 6.1 and 7).
PRIME = 2**255 - 19
ORDER_8 = 0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0
OTHER_8 = 0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F
SMALL = [0, 1, ORDER_8, OTHER_8, PRIME - 1, PRIME, PRIME + 1]
LOW_ORDER = [(point | top).to_bytes(32, "little").hex() for point in SMALL for top in (0, 2**255)]


def signed(one, advert, *, by=None, **changes):
    """An advert with changes, signed again."""
    advert = dataclasses.replace(advert, **changes)
    data = one.members[one.sites[0]]._attempt.advertisement(advert)
    return dataclasses.replace(advert, signature=sign_as(by or advert.site)(data).hex())


def replaced(adverts, place, advert):
    return (*adverts[:place], advert, *adverts[place + 1 :])


@pytest.fixture
def one():
    """Three sites whose keys are known; the first is the one that is attacked."""
    return Attempted().advertise()


@pytest.fixture
def victim(one):
    return one.members[one.sites[0]]


# The roster


def test_a_roster_under_the_minimum_is_refused():
    one = Attempted(5, 3, min_sites=4).advertise()
    with pytest.raises(RosterRefused, match="3 sites advertised their keys; 4 are needed"):
        one.members[one.sites[0]].share(one.adverts[:3])


def test_a_roster_under_the_threshold_is_refused_even_above_the_minimum():
    one = Attempted(6, 5).advertise()
    with pytest.raises(RosterRefused, match="4 sites advertised their keys; 5 are needed"):
        one.members[one.sites[0]].share(one.adverts[:4])


def test_one_site_posing_as_two_is_refused(one, victim):
    with pytest.raises(RosterRefused, match="twice"):
        victim.share((*one.adverts, one.adverts[1]))
    other = signed(one, one.adverts[1], mask_key=one.adverts[2].mask_key)
    with pytest.raises(RosterRefused, match="twice"):
        victim.share((*one.adverts, other))


def test_a_site_that_is_not_in_the_federation_is_refused(one, victim):
    stranger = Attempted(4, 3)
    advert = stranger.members[stranger.sites[3]].advertise()
    with pytest.raises(BadMessage, match=r"owner@site03\.example is not a site of this"):
        victim.share((*one.adverts, advert))


def test_keys_that_the_analyst_made_for_a_site_are_refused(one, victim):
    # It knows the private half of these, and signs with a key of its own.
    forged = signed(one, one.adverts[1], by=verifier_key("analyst"), mask_key="09" + "00" * 31)
    with pytest.raises(BadMessage, match=f"signature of {name_of(one.sites[1])} is not by its key"):
        victim.share(replaced(one.adverts, 1, forged))


@pytest.mark.parametrize("field", ["mask_key", "share_key", "seed_check", "site"])
def test_one_changed_field_of_a_signed_advert_is_noticed(one, victim, field):
    changed = dataclasses.replace(one.adverts[1], **{field: getattr(one.adverts[2], field)})
    adverts = (one.adverts[0], changed, *([] if field == "site" else [one.adverts[2]]))
    with pytest.raises(BadMessage, match="is not by its key, or not for this"):
        victim.share(adverts)


@pytest.mark.parametrize("other", [{"run": "run-2"}, {"attempt": 2}, {"computation": "d" * 64}])
def test_keys_for_another_run_attempt_or_computation_are_refused(one, victim, other):
    elsewhere = Attempted(**other)
    advert = elsewhere.members[one.sites[1]].advertise()
    with pytest.raises(BadMessage, match="or not for this"):
        victim.share(replaced(one.adverts, 1, advert))
    with pytest.raises(BadMessage, match="or not for this"):
        Attempted().aggregator.advertised(one.sites[1], advert)


def test_another_advert_in_this_sites_own_name_is_refused(one, victim):
    for adverts in (
        one.adverts[1:],
        replaced(one.adverts, 0, signed(one, one.adverts[0], share_key=one.adverts[1].share_key)),
    ):
        with pytest.raises(RosterRefused, match="own keys"):
            victim.share(adverts)


@pytest.mark.parametrize("key", LOW_ORDER)
@pytest.mark.parametrize("field", ["mask_key", "share_key"])
def test_points_of_small_order_are_refused(field, key):
    one = Attempted()
    adverts = [member.advertise() for member in one.members.values()]
    forged = signed(one, adverts[1], **{field: key})
    with pytest.raises(BadMessage, match="the same secret"):
        one.members[one.sites[0]].share(replaced(adverts, 1, forged))
    with pytest.raises(BadMessage, match="the same secret"):
        one.aggregator.advertised(one.sites[1], forged)


@pytest.mark.parametrize("text", ["", "xyz", "00", "AB" * 32, "ab" * 33, " " + "ab" * 31 + " "])
@pytest.mark.parametrize("field", ["mask_key", "share_key", "seed_check", "signature"])
def test_garbage_instead_of_keys_is_refused(one, victim, field, text):
    forged = dataclasses.replace(one.adverts[1], **{field: text})
    with pytest.raises(BadMessage, match="in hexadecimal digits"):
        victim.share(replaced(one.adverts, 1, forged))


# Shares


def test_fewer_shares_than_the_threshold_are_refused():
    one = Attempted(5, 4).advertise().share()
    site = one.sites[0]
    some = dict(itertools.islice(one.inboxes[site].items(), 2))
    with pytest.raises(RosterRefused, match="3 sites made shares; 4 are needed"):
        one.members[site].mask(one.inputs[site], some, work=WORK)


def told(one, shares):
    site = one.sites[0]
    return one.members[site].mask(one.inputs[site], shares, work=WORK)


def test_shares_that_were_changed_swapped_or_moved_are_refused(one):
    one.share()
    first, second, third = one.sites
    inbox = one.inboxes[first]
    tampered = format(int(inbox[second][0], 16) ^ 1, "x") + inbox[second][1:]
    for wrong in (
        inbox | {second: tampered},
        {second: inbox[third], third: inbox[second]},
        inbox | {second: one.inboxes[third][second]},  # meant for the third
        inbox | {second: one.inboxes[second][first]},  # what the first had sealed itself
        inbox | {second: "00" * 82},
    ):
        with pytest.raises(BadMessage, match=f"{name_of(second)} sealed was not for this site now"):
            told(one, wrong)


def test_shares_of_another_attempt_are_refused(one):
    one.share()
    before = Attempted(attempt=2).advertise().share()
    with pytest.raises(BadMessage, match="not for this site now"):
        told(one, before.inboxes[one.sites[0]])


@pytest.mark.parametrize("text", ["", "xyz", "AB" * 82, "ab" * 81])
def test_garbage_instead_of_shares_is_refused(one, text):
    one.share()
    with pytest.raises(BadMessage, match="is not 82 bytes in hexadecimal digits"):
        told(one, one.inboxes[one.sites[0]] | {one.sites[1]: text})


def test_shares_of_somebody_who_advertised_no_keys_are_refused(one):
    one.share()
    inbox = one.inboxes[one.sites[0]]
    for stranger in ("somebody", one.sites[0]):
        with pytest.raises(BadMessage, match="advertised no keys"):
            told(one, inbox | {stranger: inbox[one.sites[1]]})


def test_a_second_vector_is_never_masked_with_the_same_keys(one):
    one.share()
    told(one, one.inboxes[one.sites[0]])
    with pytest.raises(RosterRefused, match="one vector is masked"):
        told(one, one.inboxes[one.sites[0]])


# Survivors


def test_nobody_is_both_alive_and_dropped():
    one = Attempted(5, 4).advertise().share().mask()
    site, other = one.sites[:2]
    reveal = one.members[site].reveal(one.survivors)
    assert other in reveal.masks
    without = {each: text for each, text in one.survivors.items() if each != other}
    with pytest.raises(RosterRefused, match="once"):
        one.members[site].reveal(without)


def test_survivors_under_the_threshold_are_refused():
    one = Attempted(5, 4).advertise().share().mask()
    site = one.sites[0]
    three = dict(itertools.islice(one.survivors.items(), 3))
    for step in (one.members[site].agree, one.members[site].reveal):
        with pytest.raises(RosterRefused, match="3 sites survived; 4 are needed"):
            step(three)


def test_a_site_that_gave_its_vector_is_not_said_to_have_dropped_out():
    one = Attempted(5, 3).advertise().share().mask()
    others = {each: text for each, text in one.survivors.items() if each != one.sites[0]}
    for step in (one.members[one.sites[0]].agree, one.members[one.sites[0]].reveal):
        with pytest.raises(RosterRefused, match="is said to have dropped out"):
            step(others)


def test_survivors_that_were_not_in_the_roster_are_refused():
    one = Attempted(4, 3).advertise()
    one.share(one.sites[:3]).mask()
    survivors = one.survivors | {one.sites[3]: one.survivors[one.sites[1]]}
    with pytest.raises(RosterRefused, match="not in the roster"):
        one.members[one.sites[0]].reveal(survivors)


@pytest.mark.parametrize("confirmed", ["", "00" * 64, "zz" * 64])
def test_a_survivor_that_has_not_signed_what_it_saw_is_refused(confirmed):
    one = Attempted().until_masked()
    for step in (one.members[one.sites[0]].agree, one.members[one.sites[0]].reveal):
        with pytest.raises(BadMessage, match=f"signature of {name_of(one.sites[1])} is not"):
            step(one.survivors | {one.sites[1]: confirmed})


def test_the_signature_of_one_survivor_does_not_stand_for_another():
    one = Attempted().until_masked()
    first, second, third = one.sites
    with pytest.raises(BadMessage, match="not by its key"):
        one.members[first].reveal(one.survivors | {second: one.survivors[third]})


def test_after_a_dropout_nothing_is_revealed_without_agreement():
    one = Attempted(5, 4).advertise().share()
    one.mask(one.sites[:4])
    member = one.members[one.sites[0]]
    with pytest.raises(RosterRefused, match="0 sites agreed"):
        member.reveal(one.survivors)
    agreed = {site: one.members[site].agree(one.survivors) for site in one.sites[:3]}
    with pytest.raises(RosterRefused, match="3 sites agreed on who survived; 4 of these"):
        member.reveal(one.survivors, agreed)
    padded = agreed | {one.sites[3]: agreed[one.sites[2]]}
    with pytest.raises(BadMessage, match=f"signature of {name_of(one.sites[3])} is not by its key"):
        member.reveal(one.survivors, padded)
    with pytest.raises(RosterRefused, match="4 sites agreed"):
        member.reveal(one.survivors, agreed | {one.sites[4]: agreed[one.sites[2]]})


def test_a_site_that_agreed_reveals_for_nobody_else():
    one = Attempted(5, 3).advertise().share().mask()
    first = one.sites[0]
    four = {site: one.survivors[site] for site in one.sites[:4]}
    agreed = {site: one.members[site].agree(four) for site in one.sites[:4]}
    three = {site: one.survivors[site] for site in one.sites[:3]}
    for step in (
        lambda: one.members[first].agree(three),
        lambda: one.members[first].reveal(three, agreed),
        lambda: one.members[first].reveal(one.survivors),
    ):
        with pytest.raises(RosterRefused, match="agreed to other survivors"):
            step()
    # Nor do those who agreed to other survivors count for these.
    with pytest.raises(BadMessage, match="not for this"):
        one.members[one.sites[4]].reveal(
            {site: one.survivors[site] for site in one.sites[1:]},
            {site: agreed[site] for site in one.sites[1:4]},
        )
    assert one.members[first].agree(four) == agreed[first]


def test_naming_other_survivors_to_each_does_not_open_a_sum_of_few():
    """The attack that agreement is for: ten sites, a threshold of six, a sum of four.

    Four are named a survivor to everybody, of the other six two each time: six sites or more would
    then give shares of each of the four's seeds, and six or more of each of the others' keys.
    """
    one = Attempted(10, 6).advertise().share().mask()
    few, others = one.sites[:4], one.sites[4:]
    lists = {}
    for number, site in enumerate(one.sites):
        own = site if site in others else others[number]
        lists[site] = {*few, own, others[(others.index(own) + 1) % 6]}
    told_alive = {each: sum(each in told for told in lists.values()) for each in one.sites}
    assert all(told_alive[each] >= 6 for each in few)
    assert all(10 - told_alive[each] >= 6 for each in others)
    agreed = {}
    for site, chosen in lists.items():
        survivors = {each: one.survivors[each] for each in chosen}
        agreed[site] = one.members[site].agree(survivors)
    for site, chosen in lists.items():
        survivors = {each: one.survivors[each] for each in chosen}
        said = {each: agreed[each] for each in chosen}
        with pytest.raises(BadMessage, match="is not by its key, or not for this"):
            one.members[site].reveal(survivors, said)


def test_showing_a_part_of_the_sites_another_roster_does_not_open_their_sum():
    """Three of ten mask with three others only, who are then said to have dropped out."""
    one = Attempted(10, 6).advertise().share()
    few, gone, rest = one.sites[:3], one.sites[3:6], one.sites[6:]
    confirmed = {}
    for site in (*few, *rest):
        roster = (*few, *gone) if site in few else one.sites
        inbox = {each: text for each, text in one.inboxes[site].items() if each in roster}
        _, confirmed[site] = one.members[site].mask(one.inputs[site], inbox, work=WORK)
    survivors = {site: confirmed[site] for site in (*few, *rest)}
    for site in rest:
        with pytest.raises(BadMessage, match="is not by its key, or not for this"):
            one.members[site].agree(survivors)


def test_asking_the_others_for_other_work_does_not_open_the_sum():
    """With a model at which the others' answer is zero, the sum would be one site's part."""
    one = Attempted().advertise().share()
    first, *others = one.sites
    one.inputs |= {site: np.zeros(4, np.uint64) for site in others}
    survivors = {first: one.masked(first)[1]}
    survivors |= {site: one.masked(site, work="f" * 64)[1] for site in others}
    for site in one.sites:
        with pytest.raises(BadMessage, match="is not by its key, or not for this"):
            one.members[site].reveal(survivors)


def test_sites_with_other_computations_under_one_run_do_not_share_keys():
    """With a question to which the others' answer is known, the sum would be one site's part."""
    one, other = Attempted(), Attempted(computation="d" * 64)
    adverts = [one.members[one.sites[0]].advertise()]
    adverts += [other.members[site].advertise() for site in one.sites[1:]]
    for member in (one.members[one.sites[0]], other.members[one.sites[1]]):
        with pytest.raises(BadMessage, match="not for this"):
            member.share(adverts)


def test_sites_that_were_shown_other_keys_of_each_other_do_not_agree():
    """A site that helps the analyst signs two adverts, and each of the others sees another one."""
    one = Attempted(4, 3).advertise()
    helper = one.sites[3]
    again = Member(me=helper, sign=sign_as(helper), **one.what)
    other = (*one.adverts[:3], again.advertise())
    seen = dict(zip(one.sites, (one.adverts, other, other, one.adverts), strict=True))
    sealed = {site: one.members[site].share(seen[site]) for site in one.sites}
    first, second, third = one.sites[:3]
    inbox = {site: sealed[site][first] for site in one.sites[1:]}
    with pytest.raises(BadMessage, match=f"{name_of(second)} sealed was not for this site now"):
        one.members[first].mask(one.inputs[first], inbox, work=WORK)
    inbox = {site: sealed[site][second] for site in (first, third, helper)}
    with pytest.raises(BadMessage, match=f"{name_of(first)} sealed was not for this site now"):
        one.members[second].mask(one.inputs[second], inbox, work=WORK)


def test_a_checkpoint_of_an_audit_log_is_no_signature_of_this_protocol():
    from privnb.audit import Checkpoint, sign_checkpoint

    one = Attempted()
    statement = one.members[one.sites[0]]._attempt.confirmation(one.sites[0], "v")
    assert statement.startswith(b"privnb secure aggregation v1\n")
    body = statement.decode()
    with pytest.raises(Exception, match="cannot be the name of a key"):
        sign_checkpoint(
            Checkpoint(origin=body.partition("\n")[0], size=0, root=bytes(32)),
            signing_key("site00"),
        )


def test_a_vector_that_comes_after_its_site_was_given_up_stays_masked():
    """Its pairwise masks are known by then; its own is not, and nobody gives a share of it."""
    one = Attempted(4, 3, length=1000).advertise().share()
    late, *others = one.sites
    mask_key = one.members[late]._step  # only to know what the others will reveal
    pair_secrets, context = mask_key.pair_secrets, mask_key.context
    vector, _ = one.masked(late)
    one.mask(others).agree().reveal()
    assert (one.aggregator.total() == one.sum_of(others)).all()
    for site in others:
        key = masks.pair_key(pair_secrets[site], context=context, one=late, other=site)
        (masks.subtract_mask if late < site else masks.add_mask)(vector, key)
    assert not np.isin(vector, one.inputs[late]).any()
    assert all(late not in reveal.masks for reveal in one.aggregator._reveals.values())
