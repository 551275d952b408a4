"""What a site says of a federated run: what protected its people, and what did not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.release import NO_EPSILON, PrivacyLabel
from privnb.site.federated.checks import MOST_FAILURES

if TYPE_CHECKING:
    from privnb.computation import Federation
    from privnb.dp.schema import TableSchema

__all__ = ["exact_label", "mock_run_label", "noisy_label"]

_UNREAL = ("The rows are made up from the schema alone: nothing here is real.",)


def noisy_label(  # noqa: PLR0913 - keywords, each one line of the label
    federation: Federation,
    *,
    mechanism: str,
    epsilon: str,
    delta: str,
    schema: TableSchema,
    clamps: tuple[str, ...],
    budget: str,
    population: str,
) -> PrivacyLabel:
    """Describe what left under noise that the sites share.

    Parameters
    ----------
    mechanism
        What is done at each site, and what that makes of the sum.
    """
    unit_name = schema.unit_name
    return PrivacyLabel(
        mechanism=f"{mechanism}; {_masks(federation)}",
        epsilon=epsilon,
        delta=delta,
        unit=f"one {unit_name} (all their rows in {schema.name})",
        clamps=clamps,
        budget=budget,
        not_protected=(
            _collusion(federation, noisy=True),
            "The sum is seen by the analyst, and by whom they tell it.",
            f"Facts about groups are not hidden, only whether any one {unit_name} is in the table.",
            f"The same {unit_name} at another site, or in another table, is not accounted for.",
            "Releases add up: together they reveal what your budget shows as spent.",
            _POISON,
            _TRAFFIC,
        ),
        population=population,
    )


def exact_label(  # noqa: PLR0913 - keywords, each one line of the label
    federation: Federation,
    *,
    units: str,
    approved_by: tuple[str, ...],
    sandbox: str,
    population: str,
    fixed_sites: bool,
) -> PrivacyLabel:
    """Describe what left without noise: sums, over several sites, of what approved code gave.

    Parameters
    ----------
    units
        Who is in the tables, in words.
    fixed_sites
        Whether all sums of the computation are over the same sites.
    """
    return PrivacyLabel(
        route="approval",
        mechanism=f"no noise: exact weighted means over the sites; {_masks(federation)}",
        epsilon=NO_EPSILON,
        delta=NO_EPSILON,
        unit=f"nobody by proof: one site's part is hidden among the others', not single {units}",
        budget="nothing was charged: an exact sum has no epsilon",
        not_protected=(
            _collusion(federation, noisy=False),
            _MEMORY,
            "The analyst chose the parameters of each round, and nobody looked at the sums.",
            "A sum over few sites is close to each one's part.",
            _NO_DIFFERENCE if fixed_sites else _DIFFERENCE,
            _FAILURES,
            _CONSENTS,
            _POISON,
            _TRAFFIC,
            "No claim of anonymity.",
        ),
        approved_by=approved_by,
        sandbox=sandbox,
        population=population,
    )


def mock_run_label(
    federation: Federation, *, mechanism: str, noisy: bool, sandbox: str = ""
) -> PrivacyLabel:
    """Describe a run on mock twins, which went the same way."""
    return PrivacyLabel(
        route="noise" if noisy else "approval",
        mechanism=f"{mechanism}; {_masks(federation)}",
        epsilon="0",
        delta="0",
        unit="nobody: no real row was read",
        budget="nothing was spent",
        not_protected=_UNREAL,
        sandbox=sandbox,
        mock=True,
    )


_MEMORY = (
    "Masks hide which site gave what. A model may remember rows all the same, and tell them to"
    " whoever has it."
)
_DIFFERENCE = (
    "The same parameters are summed over one set of sites, whoever asks. Of two similar rounds, or"
    " runs, over different sites, the difference is the part of those missing in one."
)
_NO_DIFFERENCE = (
    "This computation is summed over one set of sites only, whoever asks; of a similar one over"
    " others, the difference is the part of those missing in one."
)
_FAILURES = (
    f"Whether a round fails at a site may depend on its data, and up to {MOST_FAILURES} failures"
    " tell; so does how long it takes."
)
_CONSENTS = (
    "Of two runs, or of a release and a later one, before and after a change of consent, the"
    " difference may be the part of those people."
)
_POISON = (
    "Any site, or who supplies its data, can falsify the sum unnoticed: by wrong numbers in range."
)
_TRAFFIC = "Who took part, when, and how large the vectors are, is seen by analyst and storage."


def _masks(federation: Federation) -> str:
    count = len(federation.sites)
    return (
        f"added up under masks (secure aggregation): only sums over at least"
        f" {federation.threshold} of {count} sites can be seen"
    )


def _collusion(federation: Federation, *, noisy: bool) -> str:
    count = federation.colluding
    if count == 0:
        who = "If one of the other sites tells the analyst all it sees, "
    else:
        sites = "one site" if count == 1 else f"{count} sites"
        who = f"That is so while at most {sites} tell the analyst all they see. If more do, "
    what = (
        "this site's part may be seen, with its own noise alone"
        if noisy
        else "this site's part may be seen"
    )
    return f"{who}{what}."
