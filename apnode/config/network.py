"""The network: how long a run lasts, its radio, and how radio propagates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from apnode.config.section import Count, Fraction, Mixture, Positive, Power, Section


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
    ue_speeds_kmh: Mixture = Field(
        ((1.0, 3.0),), description="with propagation.block_ms: [share of UEs, speed], ...; it spreads Doppler [km/h]"
    )
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
        1.9e9,
        description="carrier of 3gpp path loss and of Doppler spread; the other models have theirs in constants [Hz]",
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
    block_ms: Annotated[float, Field(ge=0, le=1e6)] = Field(
        0.0,
        description="time from one coherence block to the next, over which fading follows Clarke's model at "
        "radio.ue_speeds_kmh; 0: redrawn every block [ms]",
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
            used = {"channel_file", "block_ms", *(("carrier_hz",) if self.block_ms else ())}
            return [key for key in type(self).model_fields if key not in used]
        slopes = [] if self.model == "three-slope" else ["reference_loss_db", "d0_m", "d1_m"]
        carrier = [] if self.is_3gpp or self.block_ms else ["carrier_hz"]
        return slopes + carrier + (["shadowing_db"] if self.is_3gpp else ["ue_height_m"])


class Impairments(Section):
    """Defects of AP hardware: nature knows them, no AP is told."""

    oscillator_deg: Mixture = Field(
        ((1.0, 0.0),),
        description="[share of APs, standard deviation of the phase error of what they radiate], ... [degrees]",
    )
    recalibrate_slots: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0,
        description="0: phase errors are drawn anew each slot; otherwise slots from one calibration of phases, which "
        "sets them to 0, to the next, until which they drift that far (Wiener)",
    )
    calibration_error: Mixture = Field(
        ((1.0, 0.0),),
        description="[share of APs, e], ...: an antenna's downlink differs from its uplink by a fixed factor, "
        "e = 1 - |mean factor|^2",
    )

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if any(not 0 <= angle <= 180 for _, angle in self.oscillator_deg):
            raise ValueError("oscillator_deg must be from 0 to 180 degrees")
        if any(not 0 <= error <= 1 for _, error in self.calibration_error):
            raise ValueError("calibration_error must be from 0 to 1")
        if self.recalibrate_slots and not any(angle for _, angle in self.oscillator_deg):
            raise ValueError("recalibrate_slots has no effect without a phase error: see oscillator_deg")
        return self
