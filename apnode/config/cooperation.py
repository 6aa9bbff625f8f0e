"""How APs cooperate: who asks whom, who agrees, and what they do together."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from apnode.config.section import Fraction, Positive, Section


class Cooperation(Section):
    """Who may ask whom, who says yes, and what the two then do together."""

    policy: Literal["ddqn", "never", "always", "random", "threshold", "master", "forecast"] = Field(
        "ddqn",
        description="how an AP chooses whom to ask; master: with whom it serves a UE whose strongest AP is either; "
        "forecast: whose link it expects to be worth it",
    )
    request_rate: Fraction = Field(0.565, description="policy random: chance to ask each neighbour")
    request_share: Fraction = Field(
        0.25, description="policy threshold: ask who causes at least this share of the interference of one's neighbours"
    )
    link_price: Annotated[float, Field(ge=-1e3, le=1e3)] = Field(
        0.2,
        description="policy forecast, and ddqn with values of neighbours: ask whose link brings more [bit/s/Hz]",
    )
    residual_db: Annotated[float, Field(ge=0, le=100)] = Field(
        40.0,
        description="forecasts: interference that a UE is left with where APs cooperate, over noise; with MMSE "
        "about 20 [dB]",
    )
    max_neighbours: Annotated[int, Field(ge=1, le=32)] = Field(
        4,
        description="neighbours of an AP, at most; policy ddqn with values of subsets takes up to 8",
    )
    neighbour_threshold: Fraction = Field(0.05, description="gamma_th of (11), relative to the AP's worst interferer")
    neighbour_sets: Literal["row", "symmetric", "common-ue"] = Field(
        "symmetric", description="(11) as printed; or made reciprocal; or, instead of (11), APs that serve a common UE"
    )
    interference: Literal["other-streams", "literal", "non-serving"] = Field(
        "other-streams",
        description="what counts in (7): j != k; all j as printed; only UEs that the interferer does not serve",
    )
    reported_interferers: Annotated[int, Field(ge=1, le=64)] = Field(8, description="strongest APs in a UE's report")
    interference_window: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="weight of the newest slot in the average of (7)"
    )
    cluster: Literal["ego", "directed", "components", "serving"] = Field(
        "ego",
        description="which APs precode jointly: an AP and its agreed partners; an AP and those it asked; connected "
        "components of the agreed links, as the paper reads literally; for each UE, the component of the agreed links "
        "between APs that serve it",
    )
    max_cluster_aps: Annotated[int, Field(ge=2, le=2**16)] = Field(
        5, description="components: larger clusters are refused, their APs precode alone"
    )
    acceptance: Literal["mutual", "all"] = Field(
        "mutual", description="mutual: accept an AP that you also asked; all: accept every AP (directed clusters)"
    )

    @property
    def is_transitive(self) -> bool:
        """Whether clusters reach beyond an AP's own partners."""
        return self.cluster in {"components", "serving"}

    @model_validator(mode="after")
    def _agreement_is_possible(self) -> Self:
        if (self.cluster == "directed") != (self.acceptance == "all"):
            raise ValueError('cluster "directed" goes with acceptance "all", and only with it')
        return self


class Precoding(Section):
    """What an AP makes of the channel estimates it has, alone and with its partners, at which power."""

    alone: Literal["mrt", "rzf", "mmse"] = Field(
        "mrt", description="without partners: (18); RZF over one's own UEs; or local MMSE over all UEs"
    )
    joint: Literal["rzf", "selective"] = Field(
        "rzf",
        description="with partners: (16) over the cluster; or joint MMSE for the UEs one serves in common, "
        "and as alone for the others",
    )
    power: Literal["paper", "peak", "average"] = Field(
        "paper",
        description="what is scaled to an AP's power: (17), its own rows in each block; or a UE's whole precoder, so "
        "that its busiest AP just meets its power in each block; or the same on average over the blocks so far",
    )
    rzf_alpha: Positive = Field(2.1, description="alpha of (16) in units of mean diag(H^H H)")
    told_ues: Annotated[int, Field(ge=0, le=64)] = Field(
        8, description="selective: beside the UEs they serve, partners tell each other of so many, the strongest heard"
    )
