"""What a person may set: one frozen, closed tree of sections; the defaults are the seed paper's tables.

Every value says what it means beside it, and `cfmimo config` prints that as comments. A value that makes
no sense is refused with a sentence, here and nowhere else.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, le=1e12)]
Power = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of what a person may set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Run(Section):
    """How long, and over what the frames travel."""

    episodes: Count = Field(200, description="an episode is one UE layout")
    slots_per_episode: Count = Field(20, description="a slot is one decision of every AP")
    blocks_per_slot: Count = Field(4, description="coherence blocks in a slot; rates are averaged over them")
    transport: Literal["zeromq", "ray"] = Field(
        "zeromq", description="what carries frames between Ray actors: ZeroMQ sockets or Ray calls"
    )
    start: Literal["fork", "plain"] = Field(
        "fork", description="how Ray starts AP processes: forked from one that is warm, or each from nothing"
    )
    slot_deadline_s: Positive = Field(
        10.0, description="an AP silent for half of it is told to transmit with what it has, for all of it left out [s]"
    )
    slot_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        0.0, description="a slot lasts at least so long, to watch a run or to see in slots what takes seconds [s]"
    )
    watchdog_slots: Count = Field(
        30, description="an AP whose process lives, but misses so many slots in a row, is ended and started again"
    )
    restart_budget: Count = Field(
        3, description="restarts of an AP within a minute; one more, and it stays silent for the rest of the run"
    )
    checkpoint_every_slots: Count = Field(50, description="slots from one checkpoint of an AP to the next")
    max_frame_bytes: Annotated[int, Field(ge=1024, le=2**24)] = Field(
        65536, description="longer frames are refused [B]"
    )


class Radio(Section):
    """The network and its air interface (seed paper, tables I and II)."""

    num_aps: Count = Field(100, description="M")
    num_ues: Count = Field(40, description="K")
    antennas: Count = Field(4, description="L, per AP")
    area_m: Positive = Field(1000.0, description="side of the square [m]")
    wrap_around: bool = Field(True, description="the square is a torus: no borders")
    ap_seed: Annotated[int, Field(ge=-1, lt=2**63)] = Field(
        -1, description="of the AP positions, to keep the APs where they are while all else follows seed; -1: seed too"
    )
    ue_mobility: Literal["redraw", "walk"] = Field(
        "redraw", description="between episodes: UEs are somewhere else; or have walked straight in any direction"
    )
    ue_speed_m_s: Positive = Field(1.0, description="walk: speed [m/s]")
    episode_s: Positive = Field(10.0, description="walk: time from one episode to the next [s]")
    max_serving_aps: Count = Field(5, description="APs that serve a UE, at most")
    serving_threshold: Fraction = Field(1e-6, description="delta of (2): serve if beta >= delta * max beta")
    ap_power_w: Power = Field(1.0, description="downlink power of an AP [W]")
    power_split: Literal["equal", "sqrt-beta"] = Field(
        "equal", description="of an AP's power over its UEs: all the same, or in proportion to sqrt(beta)"
    )
    pilot_power_w: Power = Field(0.1, description="rho_p, of a UE [W]")
    pilot_length: Count = Field(10, description="tau_p: pilot symbols, and number of orthogonal pilots")
    pilot_assignment: Literal["greedy", "random", "round-robin"] = Field(
        "greedy", description="each further UE the pilot least heard at its strongest AP; or any; or the next in turn"
    )
    coherence_symbols: Count = Field(200, description="tau_c: symbols of a coherence block")
    bandwidth_hz: Positive = Field(20e6, description="[Hz]")
    noise_figure_db: Annotated[float, Field(ge=0)] = Field(7.0, description="[dB]")

    @property
    def noise_power_w(self) -> float:
        """Thermal noise, -174 dBm/Hz over the bandwidth, raised by the noise figure [W]."""
        return float(10 ** ((-174 + self.noise_figure_db) / 10) * 1e-3 * self.bandwidth_hz)

    @property
    def step_m(self) -> float:
        """How far a walking UE goes between two episodes [m]."""
        return self.ue_speed_m_s * self.episode_s

    @property
    def most_serving_aps(self) -> int:
        """APs that serve a UE, at most, of those that there are."""
        return min(self.max_serving_aps, self.num_aps)

    @property
    def max_services(self) -> int:
        """Pairs of an AP and a UE that it serves, at most."""
        return self.num_ues * self.most_serving_aps

    @model_validator(mode="after")
    def _only_walkers_have_a_speed(self) -> Self:
        for key in ("ue_speed_m_s", "episode_s"):
            if self.ue_mobility != "walk" and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f'{key} = {getattr(self, key)} has no effect with ue_mobility = "{self.ue_mobility}"')
        return self

    @model_validator(mode="after")
    def _pilots_fit(self) -> Self:
        if self.pilot_length >= self.coherence_symbols:
            raise ValueError(
                f"pilot_length = {self.pilot_length} leaves no symbol for payload in a coherence block of "
                f"{self.coherence_symbols}; set it lower or coherence_symbols higher"
            )
        return self


class Propagation(Section):
    """How radio propagates: path loss, shadowing and fading."""

    model: Literal["three-slope", "umi", "scalable", "3gpp-umi", "3gpp-uma"] = Field(
        "three-slope",
        description="path loss: Ngo et al. 2017 (52); cell-free book (5.42); -35.3 - 37.6 log10 d; 3GPP TR 38.901",
    )
    reference_loss_db: Positive = Field(140.7, description="three-slope: L at 1 km [dB]")
    d0_m: Positive = Field(10.0, description="three-slope: constant path loss up to here [m]")
    d1_m: Positive = Field(50.0, description="three-slope: exponent 2 up to here, 3.5 beyond [m]")
    carrier_hz: Annotated[float, Field(ge=0.5e9, le=100e9)] = Field(
        1.9e9, description="3gpp: carrier frequency; the other models have theirs in their constants [Hz]"
    )
    height_m: Annotated[float, Field(ge=0)] = Field(
        10.0, description="APs above UEs; 3GPP's tables mean 8.5 for 3gpp-umi and 23.5 for 3gpp-uma [m]"
    )
    ue_height_m: Annotated[float, Field(ge=1.5, le=13)] = Field(1.5, description="3gpp: UEs above ground [m]")
    shadowing_db: Annotated[float, Field(ge=0)] = Field(
        8.0, description="standard deviation; published: 4 with umi, 10 with scalable; 3gpp brings its own [dB]"
    )
    shadowing_correlation_m: Annotated[float, Field(ge=0)] = Field(
        0.0, description="distance over which UEs' shadowing correlation halves; 0: independent; the book has 9 [m]"
    )
    block_correlation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="rho of first-order Gauss-Markov fading from block to block; 0: redrawn every block"
    )
    angular_spread_deg: Annotated[float, Field(ge=0, le=90)] = Field(
        0.0,
        description="standard deviation of scatterers' azimuth, which correlates the fading of an AP's antennas; "
        "0: iid; the APs' estimator takes it for iid all the same, as they are told only beta [degrees]",
    )
    channel_file: str = Field(
        "", description=".npz of measured or ray-traced gains instead of a model: see channel_server/recorded.py"
    )

    @property
    def is_3gpp(self) -> bool:
        return self.model in {"3gpp-umi", "3gpp-uma"}

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.d0_m >= self.d1_m:
            raise ValueError(f"d0_m = {self.d0_m} must be below d1_m = {self.d1_m}")
        return self

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> Self:
        because = "a channel_file" if self.channel_file else f'model = "{self.model}"'
        for key in self._idle_settings():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} = {getattr(self, key)} has no effect with {because}")
        if self.shadowing_correlation_m and not self.shadowing_db:
            raise ValueError("shadowing_correlation_m has no effect with shadowing_db = 0: there is no shadowing")
        return self

    def _idle_settings(self) -> list[str]:
        """Settings that are not looked at."""
        if self.channel_file:
            return [key for key in type(self).model_fields if key not in {"channel_file", "block_correlation"}]
        slopes = [] if self.model == "three-slope" else ["reference_loss_db", "d0_m", "d1_m"]
        return slopes + (["shadowing_db"] if self.is_3gpp else ["carrier_hz", "ue_height_m"])


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
    cluster: Literal["ego", "directed", "pairs", "capped", "components", "serving"] = Field(
        "ego",
        description="over whom to precode: oneself and the agreed partners; oneself and those one asked; oneself and "
        "one partner (only the strongest chosen is asked); disjoint clusters, along the heaviest agreed links up to "
        "max_cluster_aps; connected components of the agreed links, as the paper reads literally; for each UE, the "
        "component of the agreed links between APs that serve it",
    )
    max_cluster_aps: Annotated[int, Field(ge=2, le=2**16)] = Field(
        5, description="capped: APs in a cluster, at most; components: larger ones are refused, their APs precode alone"
    )
    acceptance: Literal["mutual", "grant", "all"] = Field(
        "mutual", description="yes to whom one asked too; to all while below max_partners; to all (directed clusters)"
    )
    max_partners: Annotated[int, Field(ge=1, le=8)] = Field(
        4, description="acceptance grant: no more grants beyond so many"
    )

    @property
    def is_transitive(self) -> bool:
        """Whether clusters reach beyond an AP's own partners."""
        return self.cluster in {"capped", "components", "serving"}

    @model_validator(mode="after")
    def _agreement_is_possible(self) -> Self:
        if (self.cluster == "directed") != (self.acceptance == "all"):
            raise ValueError('cluster "directed" goes with acceptance "all", and only with it')
        if self.cluster not in {"ego", "directed"} and self.acceptance != "mutual":
            raise ValueError(f'cluster "{self.cluster}" needs acceptance "mutual": its links are those both ends chose')
        if self.acceptance == "grant" and self.neighbour_sets == "row":
            raise ValueError('acceptance "grant" needs reciprocal neighbour_sets: an AP must know who may ask it')
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


class Config(Section):
    """One experiment. Same config, same seed, same digest, on any runtime."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="of everything random")
    run: Run = Run()
    radio: Radio = Radio()
    propagation: Propagation = Propagation()
    cooperation: Cooperation = Cooperation()
    precoding: Precoding = Precoding()
    reward: Reward = Reward()
    learning: Learning = Learning()

    @property
    def num_slots(self) -> int:
        return self.run.episodes * self.run.slots_per_episode

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
        """Slots from one evaluation of agents that learn to the next; 0: never."""
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
            raise ValueError(
                'cluster "serving" needs precoding.joint = "selective": it says with whom to precode for which UE'
            )
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
        """Of a message that tells the whole graph of links at once."""
        match self.cooperation.cluster:
            case "capped" | "components":
                per_ap = 2 + 12 * self.cooperation.max_neighbours
                return per_ap * self.radio.num_aps + 4 * self.radio.max_services
            case "serving":
                return 6 * self.radio.max_services * (self.radio.most_serving_aps - 1)
            case _:
                return 0
