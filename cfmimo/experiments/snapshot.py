"""One slot, every array: an outside observer's view of a local run, for checking it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import SlotFeedback, Transmission
from apnode.protocol.node import CHANNEL
from apnode.protocol.wire import decode
from apnode.radio.csi import error_variance
from cfmimo.errors import ConfigError, RunDirError
from cfmimo.records.own_code import check_own_code
from cfmimo.runtime.local import LocalNetwork
from channel_server.fading import channels
from channel_server.impairments import downlink
from channel_server.sinr import received_interference, sinr
from channel_server.topology import make_layout, transmit_power

Arrays = dict[str, NDArray[Any]]


def write_snapshot(config: Config, slot: int, path: Path) -> Arrays:
    """Run up to a slot and write its arrays.

    Raises:
        ConfigError: if there is no such slot.
        RunDirError: if the file cannot be written.
    """
    _refuse_other_slots(config, slot)
    if path.suffix != ".npz":
        raise RunDirError(f"{path} should end in .npz")
    if not path.parent.is_dir():
        raise RunDirError(f"there is no folder {path.parent}")
    arrays = snapshot(config, slot)
    try:
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise RunDirError(f"cannot write {path}: {error}") from None
    return arrays


def snapshot(config: Config, slot: int) -> Arrays:
    """The arrays of one slot. M APs, K UEs, L antennas, B blocks.

    Returns:
        ap_xy (M, 2), ue_xy (K, 2) [m]; beta (M, K); serving, reach (M, K) bool; pilot (K,); rho (M, K) [W];
        h (B, M, K, L); h_hat (B, M, K, L), error_variance (M, K) as the APs know them, 0 for UEs out of reach;
        interference (M, M), eq. (7) in this slot [W]; neighbours, requests, links (M, M) bool, row m is AP m's view;
        w, w_alone (B, M, K, L) [sqrt W]; sinr, sinr_alone (B, K) linear; noise_power () [W]; config () as JSON text.

    Raises:
        ConfigError: if there is no such slot.
    """
    _refuse_other_slots(config, slot)
    check_own_code(config)
    network = LocalNetwork(config)
    transmissions = _run_to_feedback(network, config, slot)
    layout = make_layout(config, slot // config.run.slots_per_episode)
    h = channels(config, layout, slot)
    w, w_alone = np.zeros_like(h), np.zeros_like(h)
    for ap, sent in transmissions.items():
        w[:, ap, list(sent.ues)], w_alone[:, ap, list(sent.ues)] = sent.w, sent.w_alone
    radio, noise = config.radio, config.radio.noise_power_w
    at_ues = downlink(config, h, slot)
    suffered = received_interference(at_ues, w, layout.serving, config.cooperation.interference)
    slots = [ap.slot for ap in network.aps]
    assert all(state is not None for state in slots)
    h_hat = np.zeros_like(h)
    for ap, state in enumerate(state for state in slots if state):
        h_hat[:, ap, layout.reach[ap]] = state.h_hat.swapaxes(1, 2)
    error = [
        error_variance(row, layout.pilots, radio.pilot_power_w, radio.pilot_length, noise)
        for row in layout.beta_in_reach
    ]
    return {
        "ap_xy": layout.ap_xy,
        "ue_xy": layout.ue_xy,
        "beta": layout.beta,
        "serving": layout.serving,
        "reach": layout.reach,
        "pilot": layout.pilots,
        "rho": transmit_power(config, layout),
        "h": h,
        "h_hat": h_hat,
        "error_variance": np.array(error),
        "interference": layout.serving.astype(float) @ suffered.T * ~np.eye(radio.num_aps, dtype=bool),
        "neighbours": _rows([state.episode.neighbours for state in slots if state]),
        "requests": _rows([state.chosen for state in slots if state]),
        "links": _rows([state.partners for state in slots if state]),
        "w": w,
        "w_alone": w_alone,
        "sinr": sinr(at_ues, w, noise),
        "sinr_alone": sinr(at_ues, w_alone, noise),
        "noise_power": np.array(noise),
        "config": np.array(config.model_dump_json()),
    }


def _refuse_other_slots(config: Config, slot: int) -> None:
    if not 0 <= slot < config.num_slots:
        raise ConfigError(f"there is no slot {slot}: this experiment has slots 0 to {config.num_slots - 1}")


def _run_to_feedback(network: LocalNetwork, config: Config, slot: int) -> dict[int, Transmission]:
    """Run until the slot has closed but no AP has been told; returns what the APs transmitted in it."""
    transmissions: dict[int, Transmission] = {}
    for send in network.frames():
        message = decode(send.frame, largest_frame(config))
        if isinstance(message, Transmission) and send.to == CHANNEL and message.slot == slot:
            transmissions[message.ap] = message
        if isinstance(message, SlotFeedback) and message.slot == slot:
            break
    return transmissions


def _rows(lists: list[tuple[int, ...]]) -> NDArray[np.bool_]:
    matrix = np.zeros((len(lists), len(lists)), bool)
    for ap, listed in enumerate(lists):
        matrix[ap, list(listed)] = True
    return matrix
