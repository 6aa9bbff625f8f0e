"""The network: how long a run lasts, its radio, and how radio propagates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from apnode.config.own_policy import is_own, is_well_formed
from apnode.config.section import Count, Fraction, Mixture, Positive, Power, Section


class Run(Section):
    """How long the run lasts, and how its frames travel and its processes live."""

    episodes: Count = Field(200, description="number of episodes; every episode has one UE layout")
    slots_per_episode: Count = Field(20, description="number of slots; in every slot each AP decides once")
    blocks_per_slot: Count = Field(4, description="coherence blocks in a slot; rates are means over them")
    transport: Literal["zeromq", "ray-calls"] = Field(
        "zeromq", description="carrier of frames between AP processes: ZeroMQ sockets, or calls of Ray actors"
    )
    start: Literal["fork", "plain"] = Field(
        "fork", description="how AP processes start: forked from one warm process, or each from nothing"
    )
    aps_per_actor: Count = Field(
        1, description="APs in one process on Ray, neighbours in space: less memory and time, but one kill takes all"
    )
    slot_deadline_s: Positive = Field(
        10.0,
        description="after half of it a silent AP is told to transmit; after all of it the slot closes without it [s]",
    )
    slot_s: Annotated[float, Field(ge=0, le=3600)] = Field(0.0, description="minimum duration of a slot [s]")
    watchdog_slots: Count = Field(
        30, description="slots missed in a row after which a hung AP process is ended and restarted"
    )
    restart_budget: Count = Field(
        3,
        description="restarts of an AP within a minute; after one more death it stays silent for the rest of the run",
    )
    checkpoint_every_slots: Count = Field(50, description="slots between two checkpoints of an AP")


class Radio(Section):
    """The network and its air interface (seed paper, tables I and II)."""

    num_aps: Count = Field(100, description="M, number of APs")
    num_ues: Count = Field(40, description="K, number of UEs")
    antennas: Count = Field(4, description="L, antennas of an AP")
    area_m: Positive = Field(1000.0, description="side of the square [m]")
    wrap_around: bool = Field(True, description="the square is a torus, without borders")
    ap_seed: Annotated[int, Field(ge=-1, lt=2**63)] = Field(
        -1, description="seed of the AP positions and defects; -1: they follow seed, as all else does"
    )
    ue_mobility: Literal["redraw", "walk", "drive"] = Field(
        "redraw",
        description="UEs between two episodes: placed anew; each walks straight in a random direction; each goes on "
        "straight at its speed of ue_speeds_kmh, in the time that an episode takes (see propagation.block_ms)",
    )
    ue_speed_m_s: Positive = Field(1.0, description="walk: speed of a UE [m/s]")
    episode_s: Positive = Field(10.0, description="walk: time between two episodes [s]")
    ue_speeds_kmh: Mixture = Field(
        ((1.0, 3.0),), description="with propagation.block_ms: [share of UEs, speed], ...; speed spreads Doppler [km/h]"
    )
    max_serving_aps: Count = Field(5, description="largest number of APs that serve a UE")
    serving_threshold: Fraction = Field(1e-6, description="delta of (2): an AP serves a UE if beta >= delta * max beta")
    ap_power_w: Power = Field(1.0, description="downlink power of an AP [W]")
    power_split: Literal["equal", "sqrt-beta"] = Field(
        "equal", description="shares of its power that an AP gives its UEs: equal, or in proportion to sqrt(beta)"
    )
    pilot_power_w: Power = Field(0.1, description="rho_p, pilot power of a UE [W]")
    pilot_length: Count = Field(10, description="tau_p, number of pilot symbols and of orthogonal pilots")
    pilot_assignment: Literal["greedy", "random", "round-robin"] = Field(
        "greedy",
        description="pilot of each further UE: the one least received at its strongest AP, any, or the next in turn",
    )
    coherence_symbols: Count = Field(200, description="tau_c, symbols of a coherence block")
    bandwidth_hz: Annotated[float, Field(ge=1, le=1e12)] = Field(20e6, description="bandwidth [Hz]")
    noise_figure_db: Annotated[float, Field(ge=0, le=100)] = Field(
        7.0, description="noise figure of a UE and of an AP [dB]"
    )

    @property
    def noise_power_w(self) -> float:
        """Thermal noise, -174 dBm/Hz over the bandwidth, raised by the noise figure [W]."""
        return float(10 ** ((-174 + self.noise_figure_db) / 10) * 1e-3 * self.bandwidth_hz)

    @property
    def most_serving_aps(self) -> int:
        """Largest number of APs that serve a UE, in this network."""
        return min(self.max_serving_aps, self.num_aps)

    @property
    def max_services(self) -> int:
        """Largest number of pairs of an AP and a UE that the AP serves."""
        return self.num_ues * self.most_serving_aps

    @model_validator(mode="after")
    def _only_walkers_have_a_speed(self) -> Self:
        for key in ("ue_speed_m_s", "episode_s"):
            if self.ue_mobility != "walk" and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f'{key} = {getattr(self, key)} has no effect with ue_mobility = "{self.ue_mobility}"')
        return self

    @model_validator(mode="after")
    def _speeds_are_positive(self) -> Self:
        if any(not 0 < speed <= 1000 for _, speed in self.ue_speeds_kmh):
            raise ValueError("ue_speeds_kmh must be above 0 and at most 1000 km/h")
        return self

    @model_validator(mode="after")
    def _pilots_fit(self) -> Self:
        if self.pilot_length >= self.coherence_symbols:
            raise ValueError(
                f"pilot_length = {self.pilot_length} leaves no symbol for payload in a coherence block of "
                f"{self.coherence_symbols}; set it lower or coherence_symbols higher"
            )
        return self


MODELS = ("three-slope", "umi", "scalable", "3gpp-umi", "3gpp-uma")


def _model(name: str) -> str:
    """The name of a path loss."""
    if name not in MODELS and not (is_own(name) and is_well_formed(name)):
        expected = ", ".join(f"'{model}'" for model in MODELS)
        text = "input should be {expected}, or a function of your own as 'module:function'"
        raise PydanticCustomError("literal_error", text, {"expected": expected})
    return name


class Propagation(Section):
    """How radio propagates: path loss, shadowing and fading."""

    model: Annotated[str, AfterValidator(_model)] = Field(
        "three-slope",
        examples=[*MODELS, "my_module:my_loss"],
        description="path loss: Ngo et al. 2017 (52); cell-free book (5.42); -35.3 - 37.6 log10 d; 3GPP TR 38.901; "
        "or a function of your own (docs/python.md)",
    )
    reference_loss_db: Positive = Field(140.7, description="three-slope: loss at 1 km [dB]")
    d0_m: Positive = Field(10.0, description="three-slope: distance up to which the loss is constant [m]")
    d1_m: Positive = Field(
        50.0, description="three-slope: distance up to which the exponent is 2; beyond it is 3.5 [m]"
    )
    carrier_hz: Annotated[float, Field(ge=0.5e9, le=100e9)] = Field(
        1.9e9,
        description="carrier of 3gpp path loss and of Doppler spread; other models have it in their constants [Hz]",
    )
    height_m: Annotated[float, Field(ge=0)] = Field(
        10.0, description="height of APs above UEs; by 3GPP 8.5 for 3gpp-umi and 23.5 for 3gpp-uma [m]"
    )
    ue_height_m: Annotated[float, Field(ge=1.5, le=13)] = Field(1.5, description="3gpp: height of UEs above ground [m]")
    shadowing_db: Annotated[float, Field(ge=0, le=30)] = Field(
        8.0, description="standard deviation of shadowing; published: 4 for umi, 10 for scalable; 3gpp has its own [dB]"
    )
    shadowing_correlation_m: Annotated[float, Field(ge=0)] = Field(
        0.0, description="distance at which the shadowing of two UEs correlates by half; 0: independent; book: 9 [m]"
    )
    block_ms: Annotated[float, Field(ge=0, le=1e6)] = Field(
        0.0,
        description="time between two coherence blocks, over which fading follows Clarke's model at "
        "radio.ue_speeds_kmh; 0: every block is drawn anew [ms]",
    )
    angular_spread_deg: Annotated[float, Field(ge=0, le=90)] = Field(
        0.0,
        description="standard deviation of scatterers' azimuth, which correlates fading at an AP's antennas; 0: iid; "
        "the estimator assumes iid in any case, as an AP knows only beta [degrees]",
    )
    channel_file: str = Field(
        "",
        description="file of measured or ray-traced gains, in place of a model: a .npz (docs/physics.md), or the name "
        "of one that comes with cfmimo: munich, canyon",
    )
    first_layout: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0, description="first layout to use of a channel_file, counted from 0"
    )
    num_layouts: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0, description="layouts to use of a channel_file, from first_layout on; 0: all that follow"
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
        """Settings without effect here."""
        if self.channel_file:
            used = {
                "channel_file",
                "first_layout",
                "num_layouts",
                "block_ms",
                *(("carrier_hz",) if self.block_ms else ()),
            }
            return [key for key in type(self).model_fields if key not in used]
        if is_own(self.model):  # it is given all of them
            return ["first_layout", "num_layouts"]
        slopes = [] if self.model == "three-slope" else ["reference_loss_db", "d0_m", "d1_m"]
        carrier = [] if self.is_3gpp or self.block_ms else ["carrier_hz"]
        return (
            ["first_layout", "num_layouts"] + slopes + carrier + (["shadowing_db"] if self.is_3gpp else ["ue_height_m"])
        )


class Impairments(Section):
    """Defects of AP hardware: nature knows them, no AP is told."""

    oscillator_deg: Mixture = Field(
        ((1.0, 0.0),),
        description="[share of APs, standard deviation of the phase error of their transmissions], ... [degrees]",
    )
    recalibrate_slots: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0,
        description="slots between two calibrations of phases: a calibration sets phase errors to 0, until the next "
        "they drift by oscillator_deg (Wiener); 0: phase errors are drawn anew each slot",
    )
    calibration_error: Mixture = Field(
        ((1.0, 0.0),),
        description="[share of APs, e], ...: an antenna's downlink differs from its uplink by a fixed factor, "
        "e = 1 - |mean factor|^2",
    )

    fronthaul_blocks: Mixture = Field(
        ((1.0, 0.0),),
        description="[share of APs, delay], ...: coherence blocks by which what an AP tells of its channels comes late",
    )

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if any(not 0 <= angle <= 180 for _, angle in self.oscillator_deg):
            raise ValueError("oscillator_deg must be from 0 to 180 degrees")
        if any(not 0 <= error <= 1 for _, error in self.calibration_error):
            raise ValueError("calibration_error must be from 0 to 1")
        if any(blocks < 0 or blocks % 1 for _, blocks in self.fronthaul_blocks):
            raise ValueError("fronthaul_blocks must be whole numbers of coherence blocks, 0 or more")
        if self.recalibrate_slots and not any(angle for _, angle in self.oscillator_deg):
            raise ValueError("recalibrate_slots has no effect without a phase error: see oscillator_deg")
        return self
