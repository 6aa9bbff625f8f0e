"""What a person may set: one frozen, closed tree of sections; the defaults are the seed paper's tables.

Every setting has a description, which `cfmimo config` prints as a comment. A value that makes no sense is
refused with a sentence, here and nowhere else.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from apnode.config.cooperation import Cooperation, Precoding
from apnode.config.learning import Learning, Reward
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
        policy = self.cooperation.policy
        return policy == "forecast" or (policy == "ddqn" and self.learning.values == "neighbours")

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
    def evaluate_every_slots(self) -> int:
        """Slots between two evaluations of learning agents; 0: never."""
        learns = self.cooperation.policy == "ddqn"
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
    def _components_of_a_ue_are_for_its_precoder(self) -> Self:
        if self.cooperation.cluster == "serving" and self.precoding.joint != "selective":
            raise ValueError('cluster "serving" needs precoding.joint = "selective": its clusters are of one UE each')
        return self

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if self.largest_frame_bytes > self.run.max_frame_bytes:
            raise ValueError(
                f"frames may take {self.largest_frame_bytes} B here, more than run.max_frame_bytes = "
                f"{self.run.max_frame_bytes}; raise it, or lower run.blocks_per_slot"
            )
        return self

    @property
    def largest_frame_bytes(self) -> int:
        """A bound on every frame, even that of an AP which serves all UEs."""
        blocks, radio = self.run.blocks_per_slot, self.radio
        pilots = 8 * blocks * radio.antennas * radio.pilot_length
        precoders = 2 * 8 * blocks * radio.antennas * radio.num_ues
        block = 8 * blocks * radio.antennas * (radio.num_ues + radio.antennas) + 8 * radio.num_ues
        slot_report = 4 * 8 * blocks * radio.num_ues + 10 * radio.num_aps
        feedback = (16 + (12 + 4 * radio.antennas) * self.cooperation.reported_interferers) * radio.num_ues
        association = 14 * radio.num_ues + 72 * min(64 + self.cooperation.max_neighbours, radio.num_aps)
        if self.forecasts:
            association += (4 + 5 * self.cooperation.max_neighbours) * radio.num_ues
        most = max(pilots, precoders, block, slot_report, feedback, association, self._largest_link_state_bytes)
        cluster = radio.num_aps if self.cooperation.cluster == "serving" else self.cooperation.max_cluster_aps
        partners = 2 * min(cluster, radio.num_aps)
        return most + 4 * radio.num_ues + partners + 1024

    @property
    def _largest_link_state_bytes(self) -> int:
        """Bound on a message that holds the whole graph of links."""
        match self.cooperation.cluster:
            case "components":
                per_ap = 2 + 12 * self.cooperation.max_neighbours
                return per_ap * self.radio.num_aps + 4 * self.radio.max_services
            case "serving":
                return 6 * self.radio.max_services * (self.radio.most_serving_aps - 1)
            case _:
                return 0
