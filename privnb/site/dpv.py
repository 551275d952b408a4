"""Terms of the W3C Data Privacy Vocabulary, by which purposes and legal bases are understood alike.

From DPV 2.0 and its extension for the GDPR (Data Privacy Vocabularies and Controls Community Group,
Community Group Final Report of 1 August 2024, modules *purposes*, *legal_basis* and, of
``legal/eu/gdpr``, *legal_basis* and *legal_basis_special*): those a site that lends data for
analyses may need. A term is written ``AcademicResearch``, ``dpv:AcademicResearch``,
``eu-gdpr:A6-1-e``, or as its full IRI.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from privnb.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LEGAL_BASES", "PURPOSES", "Term", "find_term"]

_NAMESPACES = {
    "dpv": "https://w3id.org/dpv#",
    "eu-gdpr": "https://w3id.org/dpv/legal/eu/gdpr#",
}


@dataclass(frozen=True)
class Term:
    """One term of the vocabulary.

    >>> Term("dpv", "AcademicResearch").iri
    'https://w3id.org/dpv#AcademicResearch'
    """

    prefix: str
    name: str

    @property
    def iri(self) -> str:
        """The term's identifier, which always points to the newest version of DPV."""
        return _NAMESPACES[self.prefix] + self.name

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every way in which the term may be written."""
        return self.name, str(self), self.iri

    def __str__(self) -> str:
        return f"{self.prefix}:{self.name}"


def _terms(prefix: str, names: str) -> dict[str, Term]:
    return {name: Term(prefix, name) for name in names.split()}


PURPOSES: Mapping[str, Term] = MappingProxyType(
    _terms(
        "dpv",
        """
        AcademicResearch CombatClimateChange CommercialPurpose CommercialResearch Counterterrorism
        CustomerCare CustomerManagement DataAltruism EnforceSecurity FraudPreventionAndDetection
        FulfilmentOfContractualObligation FulfilmentOfObligation HumanResourceManagement
        ImproveExistingProductsAndServices ImproveHealthcare ImprovePublicServices
        ImproveTransportMobility IncreaseServiceRobustness InternalResourceOptimisation
        LegalCompliance Marketing MisusePreventionAndDetection NonCommercialPurpose
        NonCommercialResearch OptimisationForConsumer OptimisationForController
        OrganisationComplianceManagement OrganisationGovernance OrganisationRiskManagement
        Personalisation PersonnelManagement ProtectionOfIPR ProtectionOfNationalSecurity
        ProtectionOfPublicSecurity ProvideOfficialStatistics PublicBenefit PublicPolicyMaking
        PublicRelations RecordManagement RepairImpairments RequestedServiceProvision
        ResearchAndDevelopment RightsFulfillment ScientificResearch ServiceOptimisation
        ServicePersonalisation ServiceProvision ServiceUsageAnalytics TechnicalServiceProvision
        VendorManagement Verification
        """,
    )
)
"""Purposes, by their names."""

LEGAL_BASES: Mapping[str, Term] = MappingProxyType(
    _terms(
        "dpv",
        """
        Consent Contract ContractPerformance DataSubjectContract EnterIntoContract LegalObligation
        LegitimateInterest LegitimateInterestOfController LegitimateInterestOfDataSubject
        LegitimateInterestOfThirdParty OfficialAuthorityOfController PublicInterest VitalInterest
        VitalInterestOfDataSubject VitalInterestOfNaturalPerson
        """,
    )
    | _terms(
        "eu-gdpr",
        """
        A6-1-a A6-1-a-explicit-consent A6-1-a-non-explicit-consent A6-1-b
        A6-1-b-contract-performance A6-1-b-enter-into-contract A6-1-c A6-1-d A6-1-d-data-subject
        A6-1-d-natural-person A6-1-e A6-1-e-official-authority A6-1-e-public-interest A6-1-f
        A6-1-f-controller A6-1-f-third-party
        A9-2-a A9-2-b A9-2-c A9-2-d A9-2-e A9-2-f A9-2-g A9-2-h A9-2-i A9-2-j
        """,
    )
)
"""Legal bases, by their names."""


def find_term(kind: str, text: str, terms: Mapping[str, Term]) -> Term:
    """Find a term by any of its spellings, or raise `UnknownName`, naming the nearest.

    >>> find_term("legal basis", "eu-gdpr:A9-2-j", LEGAL_BASES).iri
    'https://w3id.org/dpv/legal/eu/gdpr#A9-2-j'
    """
    for term in terms.values():
        if text in term.spellings:
            return term
    name = text.rpartition(":")[2].rpartition("#")[2]
    raise UnknownName.among(kind, name, terms)
