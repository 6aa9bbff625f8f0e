"""How agents learn, and from which reward."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from apnode.config.section import Count, Fraction, Positive, Section


class Reward(Section):
    """Eq. (12): r = a1 * relative gain - a2 * links charged +- a3 * interference of those asked."""

    gain_weight: float = Field(1.0, description="alpha_1")
    gain: Literal["relative", "absolute"] = Field(
        "relative", description="of the UEs' sum rate: to what it is alone, as the paper has it; or in bit/s/Hz"
    )
    link_cost: Annotated[float, Field(ge=0)] = Field(0.02, description="alpha_2")
    interference_weight: Annotated[float, Field(ge=0)] = Field(0.05, description="alpha_3")
    interference_sign: Literal["+", "-"] = Field("+", description="+ as the paper's text says, - as it prints")
    scope: Literal["own", "neighbourhood"] = Field(
        "own", description="whose gain: one's own, or the mean with one's partners'"
    )
    charge: Literal["requests", "formed"] = Field("requests", description="which links alpha_2 charges")

    @model_validator(mode="after")
    def _an_absolute_gain_is_ones_own(self) -> Self:
        if self.gain == "absolute" and self.scope != "own":
            raise ValueError('scope = "neighbourhood" has no effect with gain = "absolute": set scope = "own"')
        return self


class Learning(Section):
    """The Double DQN of every AP (seed paper, table II)."""

    values: Literal["subsets", "neighbours"] = Field(
        "subsets",
        description="what the network values: every subset of the neighbours, from (10); or to ask, and not to ask, "
        "each of them, from what an AP forecasts of the link: these add up, and cooperation.link_price is what they "
        "must be apart",
    )
    share: bool = Field(
        False,
        description="once an episode an AP's network becomes the mean of its own and its partners', told by these",
    )
    hidden: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8, strict=False)] = Field(
        (128, 64, 32), description="hidden layers, ReLU"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="of every hidden layer, while learning")
    learning_rate: Positive = Field(1e-3, description="Adam")
    discount: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="gamma")
    replay_capacity: Count = Field(1000, description="transitions an AP remembers")
    batch_size: Count = Field(32, description="transitions in an update")
    update_every_slots: Count = Field(1, description="slots from one update to the next")
    target_update_episodes: Count = Field(10, description="episodes between two copies into the target network")
    epsilon_start: Fraction = Field(0.8, description="chance to explore in the first episode")
    epsilon_end: Fraction = Field(0.01, description="and in the long run")
    epsilon_decay: Annotated[float, Field(ge=0)] = Field(0.005, description="off epsilon each episode")
    observed_ues: Annotated[int, Field(ge=1, le=64)] = Field(8, description="strongest own UEs whose beta is observed")
    evaluate_every_episodes: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0,
        description="episodes until the agents are evaluated again on layouts that they never learn from, as long as "
        "20 slots take in one process; the best are kept; 0: never",
    )

    @model_validator(mode="after")
    def _replay_holds_a_batch(self) -> Self:
        if self.replay_capacity < self.batch_size:
            raise ValueError(f"replay_capacity = {self.replay_capacity} cannot hold a batch of {self.batch_size}")
        return self
