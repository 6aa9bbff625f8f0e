"""How APs cooperate: which neighbours an AP asks, when it agrees, and how partners precode."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from apnode.config.own_policy import full_name, is_own, needs_of, own_policy
from apnode.config.section import Fraction, Positive, Section

FINDING_OUT = ("belief", "ratio", "factor")  # policies whose agents learn from the levels of streams
LEARNERS = ("ddqn", *FINDING_OUT)  # policies whose agents learn


POLICIES = ("ddqn", "never", "always", "random", "threshold", "master", "forecast", *FINDING_OUT)


def _policy(name: str) -> str:
    """The policy's name; of one that an installed package offers its module and class."""
    known = name if name in POLICIES else full_name(name)
    if known is None:
        expected = ", ".join(f"'{policy}'" for policy in POLICIES)
        text = "input should be {expected}, or a class of your own as 'module:Class'"
        raise PydanticCustomError("literal_error", text, {"expected": expected})
    return known


class Cooperation(Section):
    """Which neighbours an AP may ask, which requests it accepts, and which APs then precode jointly."""

    policy: Annotated[str, AfterValidator(_policy)] = Field(
        "ddqn",
        examples=[*POLICIES, "my_module:MyPolicy"],
        description="how an AP chooses the neighbours to ask. master: those with which it serves a UE whose strongest "
        "AP is one of the two; forecast: those whose link promises more than link_price; belief: the same, "
        "with every AP as defective as it has found itself to be; ratio: times what has come of the link so far over "
        "what was expected; factor: times a factor for each AP, as it has found it out itself; or a class of your own",
    )
    request_rate: Fraction = Field(0.565, description="policy random: probability of asking a neighbour")
    request_share: Fraction = Field(
        0.25,
        description="policy threshold: an AP asks neighbours that cause at least this share of the interference",
    )
    link_price: Annotated[float, Field(ge=-1e3, le=1e3)] = Field(
        0.2,
        description="policy forecast, ddqn with values = neighbours: an AP asks where a link promises more [bit/s/Hz]",
    )
    residual_db: Annotated[float, Field(ge=0, le=100)] = Field(
        40.0,
        description="forecasts: interference over noise that cooperation leaves at a UE; with MMSE about 20 [dB]",
    )
    max_neighbours: Annotated[int, Field(ge=1, le=32)] = Field(
        4,
        description="largest number of neighbours of an AP; with policy ddqn and values = subsets at most 8",
    )
    neighbour_threshold: Fraction = Field(
        0.05, description="gamma_th of (11), relative to the AP's strongest interferer"
    )
    neighbour_sets: Literal["row", "symmetric", "common-ue"] = Field(
        "symmetric",
        description="(11) as printed; (11) made reciprocal; or, in place of (11), APs that serve a common UE",
    )
    interference: Literal["other-streams", "literal", "non-serving"] = Field(
        "other-streams",
        description="streams that count in (7): j != k; all j, as printed; of UEs that the interferer does not serve",
    )
    reported_interferers: Annotated[int, Field(ge=1, le=64)] = Field(
        8, description="number of strongest APs in a UE's report"
    )
    interference_window: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="weight of the newest slot in the average of (7)"
    )
    cluster: Literal["ego", "directed", "components", "serving"] = Field(
        "ego",
        description="APs that precode jointly: an AP and its agreed partners; an AP and the APs it asked; a connected "
        "component of the agreed links, as the paper reads literally; for each UE, a component of the agreed links "
        "between its serving APs",
    )
    max_cluster_aps: Annotated[int, Field(ge=2, le=2**16)] = Field(
        5, description="components: largest cluster; the APs of a larger one precode alone"
    )
    serving: Literal["strongest", "forecast"] = Field(
        "strongest",
        description="which of the APs that serve a UE by (2) transmit to it: all; or, in clusters serving, those with "
        "which a forecast values its service most",
    )
    serving_floor: Fraction = Field(
        0.0,
        description='serving = "forecast": part of what a UE would get of all its APs that those that transmit to it '
        "must bring, as far as the forecast can tell; without it a UE may be given up for others",
    )
    acceptance: Literal["mutual", "all"] = Field(
        "mutual",
        description="requests that an AP accepts: from APs that it asked as well; from all (directed clusters)",
    )

    history_blocks: Annotated[int, Field(ge=0, le=64)] = Field(
        0,
        description="clusters serving: coherence blocks before a slot of which an AP remembers its estimates and tells "
        "them, so that APs can precode with what all of them have, as late as it may be",
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """What APs must be told for the policy: of `own_policy.NEEDS`."""
        if is_own(self.policy):
            return needs_of(own_policy(self.policy))
        return ("forecast",) * (self.policy in {"forecast", *FINDING_OUT}) + ("streams",) * (self.policy in FINDING_OUT)

    @property
    def is_transitive(self) -> bool:
        """Whether clusters reach beyond an AP's own partners."""
        return self.cluster in {"components", "serving"}

    @model_validator(mode="after")
    def _agreement_is_possible(self) -> Self:
        if (self.cluster == "directed") != (self.acceptance == "all"):
            raise ValueError('cluster "directed" goes with acceptance "all", and only with it')
        if self.serving == "forecast" and self.cluster != "serving":
            raise ValueError('serving = "forecast" needs cluster = "serving": it forecasts no other clusters')
        if self.serving_floor and self.serving != "forecast":
            raise ValueError('serving_floor has no effect without serving = "forecast": all APs serve')
        return self

    @model_validator(mode="after")
    def _history_has_a_reader(self) -> Self:
        if self.history_blocks and self.cluster != "serving":
            raise ValueError('history_blocks has no effect with any cluster but "serving"')
        return self


class Precoding(Section):
    """How an AP precodes, alone and with its partners, and how its power is met."""

    alone: Literal["mrt", "rzf", "mmse"] = Field(
        "mrt", description="without partners: (18); RZF over the AP's own UEs; local MMSE over all UEs"
    )
    joint: Literal["rzf", "selective"] = Field(
        "rzf",
        description="with partners: (16) over the cluster; joint MMSE for the UEs that partners serve in common, and "
        "as alone for the others",
    )
    power: Literal["paper", "peak", "average"] = Field(
        "paper",
        description="how an AP's power is met: (17), its own rows scaled in each block; the whole precoder of a UE "
        "scaled until its busiest AP meets its power in each block; the same on average over the blocks so far",
    )
    rzf_alpha: Positive = Field(2.1, description="alpha of (16) in units of mean diag(H^H H)")
    told_ues: Annotated[int, Field(ge=0, le=64)] = Field(
        8, description="selective: number of strongest other UEs whose channels partners exchange as well"
    )
