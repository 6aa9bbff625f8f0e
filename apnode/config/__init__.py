"""What a person may set: one frozen, closed tree of sections; the defaults are the seed paper's tables.

Every setting has a description, which `cfmimo config` prints as a comment. A value that makes no sense is
refused with a sentence, here and nowhere else.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from apnode.config.cooperation import FINDING_OUT, LEARNERS, Cooperation, Precoding
from apnode.config.learning import TRAITS, Learning, Reward
from apnode.config.network import Impairments, Propagation, Radio, Run
from apnode.config.section import Section


class Config(Section):
    """One experiment. Same config, same seed, same digest, on any runtime."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="seed of everything random")
    run: Run = Run()
    radio: Radio = Radio()
    propagation: Propagation = Propagation()
    impairments: Impairments = Impairments()
    cooperation: Cooperation = Cooperation()
    precoding: Precoding = Precoding()
    reward: Reward = Reward()
    learning: Learning = Learning()

    @property
    def num_slots(self) -> int:
        return self.run.episodes * self.run.slots_per_episode

    @property
    def hardware_seed(self) -> int:
        """Of what belongs to the APs: where they are, and what is wrong with them."""
        return self.seed if self.radio.ap_seed < 0 else self.radio.ap_seed

    @property
    def forecasts(self) -> bool:
        """Whether APs forecast what links would bring."""
        cooperation = self.cooperation
        of_agents = cooperation.policy == "ddqn" and self.learning.values == "neighbours"
        return of_agents or "forecast" in cooperation.needs

    @property
    def hears_streams(self) -> bool:
        """Whether APs are told at which UEs their streams are heard, and how strongly."""
        return "streams" in self.cooperation.needs

    @property
    def believes(self) -> bool:
        """Whether APs find out how defective they are."""
        return self.cooperation.policy == "belief"

    @model_validator(mode="after")
    def _what_is_found_out_is_of_joint_precoding_for_a_ue(self) -> Self:
        if self.cooperation.policy in FINDING_OUT and self.cooperation.cluster != "serving":
            needed = f'policy "{self.cooperation.policy}" needs cooperation.cluster = "serving"'
            raise ValueError(f"{needed}: it learns from groups of one UE")
        return self

    @property
    def selects_serving(self) -> bool:
        """Whether a forecast tells which of a UE's APs transmit to it."""
        return self.cooperation.serving == "forecast"

    @property
    def looks_around(self) -> bool:
        """Whether APs are told what their neighbours are told."""
        return self.forecasts or self.selects_serving

    @model_validator(mode="after")
    def _a_table_of_subsets_stays_small(self) -> Self:
        most = self.cooperation.max_neighbours
        if self.cooperation.policy == "ddqn" and self.learning.values == "subsets" and most > 8:
            raise ValueError(
                f'policy "ddqn" would need 2^{most} actions, one for each subset of max_neighbours = {most}; '
                'set it to 8 or fewer, or learning.values = "neighbours", or another policy'
            )
        return self

    @property
    def observed(self) -> int:
        """Length of an observation, the same for every AP."""
        neighbours = self.cooperation.max_neighbours
        return TRAITS * neighbours if self.forecasts else self.learning.observed_ues + 3 * neighbours

    @property
    def layers(self) -> tuple[int, ...]:
        """Widths of an agent's network, from what it observes, of one neighbour or of all, to what it values."""
        if self.learning.values == "neighbours":
            return TRAITS, *self.learning.hidden, 2
        return self.observed, *self.learning.hidden, 2**self.cooperation.max_neighbours

    @property
    def evaluate_every_slots(self) -> int:
        """Slots between two evaluations of learning agents; 0: never."""
        learns = self.cooperation.policy in LEARNERS
        return self.learning.evaluate_every_episodes * self.run.slots_per_episode if learns else 0

    @model_validator(mode="after")
    def _ids_fit_the_wire(self) -> Self:
        if max(self.radio.num_aps, self.radio.num_ues) >= 2**16 - 1:
            raise ValueError("num_aps and num_ues must stay below 65535: ids are 16 bits on the wire")
        return self

    @model_validator(mode="after")
    def _an_angle_needs_an_array(self) -> Self:
        if self.propagation.angular_spread_deg and self.radio.antennas == 1:
            raise ValueError("angular_spread_deg has no effect with antennas = 1: one antenna sees no angle")
        return self

    @model_validator(mode="after")
    def _a_speed_needs_time(self) -> Self:
        if not self.propagation.block_ms and self.radio.ue_speeds_kmh != Radio().ue_speeds_kmh:
            raise ValueError("ue_speeds_kmh has no effect with propagation.block_ms = 0: fading is redrawn every block")
        return self

    @model_validator(mode="after")
    def _who_drives_moves_with_time(self) -> Self:
        propagation = self.propagation
        if self.radio.ue_mobility == "drive":
            if not propagation.block_ms:
                raise ValueError('ue_mobility = "drive" needs propagation.block_ms: the time that a block takes')
            if propagation.shadowing_db and not propagation.shadowing_correlation_m:
                raise ValueError('ue_mobility = "drive" needs shadowing_correlation_m (9, say): shadowing would jump')
        return self

    @model_validator(mode="after")
    def _what_comes_late_is_remembered(self) -> Self:
        latest = max(int(blocks) for _, blocks in self.impairments.fronthaul_blocks)
        if latest and not self.propagation.block_ms:
            raise ValueError("fronthaul_blocks needs propagation.block_ms: without it no block tells of another")
        if latest > self.cooperation.history_blocks:
            raise ValueError(
                f"fronthaul_blocks = {latest} is beyond what APs remember: set cooperation.history_blocks = {latest}"
            )
        return self

    @model_validator(mode="after")
    def _a_file_says_who_is_where(self) -> Self:
        if self.propagation.channel_file and self.radio.ue_mobility != "redraw":
            raise ValueError("ue_mobility has no effect with a channel_file: UEs are where the file has measured them")
        return self

    @model_validator(mode="after")
    def _a_file_has_no_layouts_left(self) -> Self:
        if self.propagation.channel_file and self.learning.evaluate_every_episodes:
            raise ValueError("evaluate_every_episodes must be 0 with a channel_file: training sees all its layouts")
        return self

    @model_validator(mode="after")
    def _sets_of_aps_stay_few(self) -> Self:
        most = self.radio.most_serving_aps
        if self.selects_serving and most > 8:
            raise ValueError(
                f'serving = "forecast" would compare 2^{most} sets of APs for a UE; '
                "set radio.max_serving_aps to 8 or fewer"
            )
        return self

    @model_validator(mode="after")
    def _components_of_a_ue_are_for_its_precoder(self) -> Self:
        if self.cooperation.cluster == "serving" and self.precoding.joint != "selective":
            raise ValueError('cluster "serving" needs precoding.joint = "selective": its clusters are of one UE each')
        return self
