"""How agents learn, and the reward they learn from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from apnode.config.section import Count, Fraction, Positive, Section

TRAITS = 4  # what is known of a neighbour where APs forecast


class Reward(Section):
    """Eq. (12): r = alpha_1 * relative gain - alpha_2 * links charged +- alpha_3 * interference of the APs asked."""

    gain_weight: float = Field(1.0, description="alpha_1, weight of the gain")
    gain: Literal["relative", "absolute"] = Field(
        "relative",
        description="gain in the UEs' sum rate: relative to that without cooperation, as in the paper; or in bit/s/Hz",
    )
    link_cost: Annotated[float, Field(ge=0)] = Field(0.02, description="alpha_2, cost of a link")
    interference_weight: Annotated[float, Field(ge=0)] = Field(
        0.05, description="alpha_3, weight of the interference of the APs asked"
    )
    interference_sign: Literal["+", "-"] = Field(
        "+", description="sign of the last term: + as the paper's text says, - as the paper prints"
    )
    scope: Literal["own", "neighbourhood"] = Field(
        "own", description="gain of the AP's own UEs, or the mean of its own gain and its partners'"
    )

    @model_validator(mode="after")
    def _an_absolute_gain_is_ones_own(self) -> Self:
        if self.gain == "absolute" and self.scope != "own":
            raise ValueError('scope = "neighbourhood" has no effect with gain = "absolute": set scope = "own"')
        return self


class Learning(Section):
    """The Double DQN of every AP (seed paper, table II)."""

    values: Literal["subsets", "neighbours"] = Field(
        "subsets",
        description="what the network values: each subset of the neighbours, from (10); or asking and not asking each "
        "neighbour, from a forecast of the link: an AP asks where the two differ by more than cooperation.link_price",
    )
    share: bool = Field(
        False,
        description="once an episode, an AP's network becomes the mean of its own and its partners' networks",
    )
    hidden: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8, strict=False)] = Field(
        (128, 64, 32), description="widths of the hidden layers (ReLU)"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="dropout of every hidden layer, in updates")
    learning_rate: Positive = Field(1e-3, description="learning rate of Adam")
    discount: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="gamma, discount of later rewards")
    replay_capacity: Count = Field(1000, description="transitions in an AP's replay buffer")
    batch_size: Count = Field(32, description="transitions in an update")
    target_update_episodes: Count = Field(10, description="episodes between two copies to the target network")
    epsilon_start: Fraction = Field(0.8, description="probability of exploring in the first episode")
    epsilon_end: Fraction = Field(0.01, description="lowest probability of exploring")
    epsilon_decay: Annotated[float, Field(ge=0)] = Field(0.005, description="decrease of that probability per episode")
    observed_ues: Annotated[int, Field(ge=1, le=64)] = Field(
        8, description="number of an AP's strongest UEs whose beta its agent observes"
    )
    evaluate_every_episodes: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0,
        description="episodes between two evaluations of the agents on layouts outside the training (each takes as "
        "long as 20 slots in one process); the best agents are kept; 0: never",
    )

    @model_validator(mode="after")
    def _replay_holds_a_batch(self) -> Self:
        if self.replay_capacity < self.batch_size:
            raise ValueError(f"replay_capacity = {self.replay_capacity} cannot hold a batch of {self.batch_size}")
        return self
