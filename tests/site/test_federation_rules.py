"""With whom, and from how many on, a site computes together: by its own file alone."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privnb.audit import VerifierKey, origin_of
from privnb.computation import Computation, Federation
from privnb.errors import QueryRefused, RequestRefused
from privnb.site.federated.config import FederatedConfig
from privnb.site.federated.rules import check_federation


def key(name: str) -> VerifierKey:
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return VerifierKey(name=origin_of(name, f"owner@{name}.example"), public=public)


KEYS = [key(f"site{number}") for number in range(12)]
OWN = str(KEYS[0])


def asked(count=3, *, kind="python", **changes):
    said = {"sites": tuple(sorted(map(str, KEYS[:count]))), "threshold": 2, "rounds": 5}
    parts = {"epsilon": "1"} if kind == "sql" else {}
    if kind == "sql":
        said["rounds"] = 1
    federation = Federation(**said | changes)
    return Computation(kind=kind, source="x", federation=federation, **parts)


def check(computation, **rules):
    config = FederatedConfig(partners=tuple(KEYS[1:]), **rules)
    return check_federation(computation, config=config, own=OWN)


def test_a_federation_of_partners_is_taken_part_in():
    assert check(asked()).threshold == 2
    assert check(asked(kind="sql")).rounds == 1


def test_without_the_section_the_owner_s_remedy_is_named():
    with pytest.raises(RequestRefused, match="nothing together") as refused:
        check_federation(asked(), config=None, own=OWN)
    assert refused.value.code == "E_NO_FEDERATION"
    assert "[federated]" in refused.value.hint


def test_a_model_of_one_site_is_none():
    with pytest.raises(QueryRefused, match="over several sites"):
        check_federation(Computation(kind="model", source="{}"), config=None, own=OWN)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sites": ()}, "compute together"),
        ({"sites": (OWN, OWN, str(KEYS[1]))}, "once each, sorted"),
        ({"sites": tuple(sorted(map(str, KEYS[:3]), reverse=True))}, "once each, sorted"),
        ({"sites": ("x" * 2000, OWN)}, "compute together"),
        ({"rounds": 0}, "1 to 1000 rounds"),
        ({"rounds": 1001}, "1 to 1000 rounds"),
        ({"groups": {"city": [1]}}, "knows no groups"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(QueryRefused, match=said):
        check(asked(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 2}, "one round"),
        ({"groups": {f"c{n}": [1] for n in range(65)}}, "more than 64"),
        ({"groups": {"c": list(range(5001))}}, "5000 values"),
    ],
)
def test_what_makes_no_sense_for_totals_is_refused(changes, said):
    with pytest.raises(QueryRefused, match=said):
        check(asked(kind="sql", **changes))


def test_an_output_is_none_of_several_sites():
    computation = Computation(kind="python", source="x", output="y", federation=asked().federation)
    with pytest.raises(QueryRefused, match="no variable"):
        check(computation)


def test_a_stranger_is_named_and_never_computed_with():
    stranger = str(key("elsewhere"))
    sites = tuple(sorted([OWN, str(KEYS[1]), stranger]))
    with pytest.raises(RequestRefused, match="privnb/elsewhere") as refused:
        check(asked(sites=sites))
    assert refused.value.code == "E_PARTNERS"
    # A partner's name under another key is a stranger too.
    renamed = str(VerifierKey(name=KEYS[1].name, public=key("x").public))
    with pytest.raises(RequestRefused, match="does not compute together"):
        check(asked(sites=tuple(sorted([OWN, renamed, str(KEYS[2])]))))


def test_a_site_that_is_not_among_the_sites_takes_no_part():
    with pytest.raises(RequestRefused, match="is not among the sites"):
        check(asked(sites=tuple(sorted(map(str, KEYS[1:4])))))


@pytest.mark.parametrize(
    ("count", "changes", "rules", "said"),
    [
        (2, {}, {}, "at least 3 sites, not 2"),
        (4, {"threshold": 2}, {}, "by 3 to 4 of them, not by 2"),
        (3, {"threshold": 4}, {}, "by 2 to 3 of them, not by 4"),
        (3, {"threshold": 1}, {}, "not by 1"),
        (5, {"threshold": 3}, {"min_summed": 4}, "by 4 to 5 of them"),
        (5, {"threshold": 3}, {"colluding": 1}, "1 colluding sites must do no harm, not 0"),
        (5, {"threshold": 3, "colluding": 1}, {"colluding": 1}, "by 4 to 5 of them"),
        (3, {"threshold": 3, "colluding": 2}, {}, "too few would be left"),
        (3, {"threshold": 3, "colluding": -1}, {}, "must do no harm, not -1"),
    ],
)
def test_numbers_that_protect_too_little_are_refused(count, changes, rules, said):
    with pytest.raises(RequestRefused, match=said) as refused:
        check(asked(count, **changes), **rules)
    assert refused.value.code == "E_THRESHOLD"


def test_noisy_parts_need_one_honest_site_and_exact_ones_two():
    assert check(asked(3, kind="sql", threshold=3, colluding=2)).pieces == 1
    with pytest.raises(RequestRefused):
        check(asked(3, threshold=3, colluding=2))


@given(
    count=st.integers(1, 12),
    threshold=st.integers(-1, 14),
    colluding=st.integers(-1, 12),
    min_sites=st.integers(2, 6),
    min_summed=st.integers(2, 6),
    own_colluding=st.integers(0, 4),
    kind=st.sampled_from(["sql", "python"]),
)
def test_what_is_taken_part_in_keeps_every_rule(  # noqa: PLR0913, PLR0917 - all that is drawn
    count, threshold, colluding, min_sites, min_summed, own_colluding, kind
):
    try:
        federation = check(
            asked(count, kind=kind, threshold=threshold, colluding=colluding),
            min_sites=min_sites,
            min_summed=min_summed,
            colluding=own_colluding,
        )
    except RequestRefused:
        return
    assert count >= min_sites
    assert min_summed <= federation.threshold <= count
    assert 2 * federation.threshold > count + federation.colluding
    assert federation.colluding >= own_colluding
    assert federation.pieces >= (2 if kind == "python" else 1)
