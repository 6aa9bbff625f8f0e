"""What UEs report: of interference, a ranking that each UE does once for all its APs; and of who serves them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apnode.protocol.messages import LEAST_LEVEL, MOST_STREAMS, NOBODY, SILENT, FloatArray, IntArray, Transmission
from channel_server.ue_reports import (
    partner_gains,
    report_bytes,
    service_of,
    stream_levels,
    strongest_interferers,
)

K = 5


class Network:
    """Random powers with many zeros and equals, random service, random partners (some of them no AP at all)."""

    def __init__(self, seed: int, num_aps: int) -> None:
        rng = np.random.default_rng(seed)
        self.suffered: FloatArray = rng.integers(0, 6, (num_aps, K)).astype(float)
        self.serving: NDArray[np.bool_] = rng.random((num_aps, K)) < 0.5
        self.partners = [
            tuple(rng.choice([*range(num_aps), 60_000], rng.integers(num_aps + 1), replace=False).tolist())
            for _ in range(num_aps)
        ]

    def reports(self, count: int) -> tuple[IntArray, FloatArray]:
        return strongest_interferers(self.suffered, self.serving, self.partners, count)


networks = st.builds(Network, seed=st.integers(0, 2**32 - 1), num_aps=st.integers(1, 12))
counts = st.integers(1, 14)


@given(network=networks, count=counts)
def test_a_report_is_the_head_of_all_that_the_ue_may_report_in_order(network: Network, count: int) -> None:
    _, powers = network.reports(count)
    num_aps = len(network.suffered)
    for (ap, ue), told in zip(np.argwhere(network.serving), powers, strict=True):
        rest = [network.suffered[n, ue] for n in range(num_aps) if n not in (ap, *network.partners[ap])]
        expected = sorted(rest, reverse=True)[:count]
        np.testing.assert_array_equal(told, expected + [0] * (min(count, num_aps) - len(expected)))


@given(network=networks, count=counts)
def test_a_report_names_each_ap_once_with_its_power_and_nobody_where_there_is_none(
    network: Network, count: int
) -> None:
    for (ap, ue), named, powers in zip(np.argwhere(network.serving), *network.reports(count), strict=True):
        np.testing.assert_array_equal(named == NOBODY, powers == 0)
        aps = named[named != NOBODY]
        assert len(set(aps)) == len(aps)
        assert not {ap, *network.partners[ap]} & set(aps)
        np.testing.assert_array_equal(network.suffered[aps, ue], powers[named != NOBODY])


@pytest.mark.parametrize("served", [False, True])
def test_who_hears_nothing_reports_nobody(served: bool) -> None:
    named, powers = strongest_interferers(np.zeros((3, 2)), np.full((3, 2), served), [()] * 3, 2)
    assert named.shape == powers.shape == ((6, 2) if served else (0, 2))
    assert (named == NOBODY).all()
    assert not powers.any()


@given(network=networks, seed=st.integers(0, 2**32 - 1), count=counts)
def test_each_ue_measures_the_strongest_of_its_aps_partners_at_every_antenna(
    network: Network, seed: int, count: int
) -> None:
    rng, num_aps = np.random.default_rng(seed), len(network.suffered)
    h = rng.standard_normal((num_aps, K, 2)) + 1j * rng.standard_normal((num_aps, K, 2))
    named, gains = partner_gains(h, network.serving, network.partners, count)
    for (ap, ue), of_pair, measured in zip(np.argwhere(network.serving), named, gains, strict=True):
        power = np.abs(h[:, ue]) ** 2
        known = [partner for partner in network.partners[ap] if partner < num_aps]
        strongest = sorted(known, key=lambda partner: -power[partner].sum())[:count]
        assert of_pair.tolist() == strongest + [NOBODY] * (len(of_pair) - len(strongest))
        np.testing.assert_allclose(measured[: len(strongest)], power[strongest])
        assert not measured[len(strongest) :].any()


@pytest.mark.parametrize(("served", "partners"), [(False, (1,)), (True, ()), (False, ())])
def test_without_ues_or_partners_nothing_is_measured(served: bool, partners: tuple[int, ...]) -> None:
    h, serving = np.ones((3, 2, 4), complex), np.full((3, 2), served)
    named, gains = partner_gains(h, serving, [partners] * 3, 8)
    assert named.shape == (6 * served, len(partners))
    assert gains.shape == (6 * served, len(partners), 4)


# --- who serves a UE --------------------------------------------------------------------------------------

APS_OF = np.array([[2, 4, 7], [4, 7, NOBODY]])  # of UE 0 and of UE 1


def transmission(ap: int, ues: tuple[int, ...], group: list[int], chosen: list[int]) -> Transmission:
    nothing = np.zeros((1, len(ues), 2), complex)
    return Transmission(0, ap, ues, nothing, nothing, (), group, chosen)


SENT = {
    2: transmission(2, (0,), [2], [0b110]),
    4: transmission(4, (0, 1), [2, 4], [0, 0b10]),
    7: transmission(7, (0, 1), [7, 4], [0b001, 0]),
}


def service(*silent: int, **changed: Transmission) -> tuple[list[list[int]], list[int]]:
    sent = SENT | {int(name[2:]): message for name, message in changed.items()}
    group, chosen = service_of(APS_OF, np.array([2, 4]), {ap: m for ap, m in sent.items() if ap not in silent})
    return group.tolist(), chosen.tolist()


def test_a_ue_reports_the_groups_of_its_aps_and_what_its_strongest_chooses_whatever_others_would() -> None:
    assert service() == ([[0, 0, 2], [0, 0, SILENT]], [0b110, 0b10])


def test_who_is_silent_is_reported_so_and_if_it_decides_or_all_it_chose_are_silent_all_are_to_serve() -> None:
    assert service(2) == ([[SILENT, 0, 2], [0, 0, SILENT]], [0, 0b10])
    assert service(7) == ([[0, 0, SILENT], [0, SILENT, SILENT]], [0b110, 0])
    assert service(2, 4, 7) == ([[SILENT] * 3] * 2, [0, 0])


def test_who_names_a_stranger_as_its_group_is_reported_as_one_for_itself() -> None:
    assert service(ap7=transmission(7, (0, 1), [3, 9], [0, 0]))[0] == [[0, 0, 2], [0, 1, SILENT]]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_ues=st.integers(1, 40),
    blocks=st.integers(1, 4),
    weakest_db=st.integers(-30, 20),
)
def test_a_ue_reports_the_power_of_the_strongest_streams_it_hears_in_half_decibels(
    seed: int, num_ues: int, blocks: int, weakest_db: int
) -> None:
    rng, noise = np.random.default_rng(seed), 1e-13
    amplitude = 10 ** (rng.uniform(weakest_db, 60, (num_ues, num_ues)) / 20) * np.sqrt(noise)
    phase = rng.standard_normal((blocks, num_ues, num_ues)) + 1j * rng.standard_normal((blocks, num_ues, num_ues))
    levels = stream_levels(amplitude * phase, noise)
    measured_db = 10 * np.log10((np.abs(amplitude * phase) ** 2).mean(axis=0) / noise)
    for reported, heard_db in zip(levels.astype(int), measured_db, strict=True):
        told = reported > 0
        np.testing.assert_allclose(reported[told] / 2, heard_db[told], atol=0.25 + 1e-9)
        assert (heard_db[told] >= 5).all()
        assert told.sum() == min(MOST_STREAMS, (heard_db >= 5).sum())
        assert heard_db[told].min(initial=np.inf) >= heard_db[~told & (heard_db >= 5)].max(initial=-np.inf)


@pytest.mark.parametrize("heard", [0, 1, 18, 19, 20, 200])
def test_a_report_of_streams_takes_40_bytes_at_most_however_many_a_ue_hears(heard: int) -> None:
    effective = np.zeros((4, 200, 200), complex)
    effective[:, :, :heard] = 1e3
    levels = stream_levels(effective, 1.0)
    reports = [np.stack([np.flatnonzero(of_ue), of_ue[of_ue > 0]], axis=1).astype(np.uint8) for of_ue in levels]
    assert report_bytes(levels).tolist() == [len(bytes([len(report)]) + report.tobytes()) for report in reports]
    assert report_bytes(levels).max() <= 40
    assert (levels > 0).sum(axis=1).tolist() == [min(heard, 19)] * 200


def test_a_ue_reports_no_stream_that_it_does_not_hear() -> None:
    just, below = 10 ** (LEAST_LEVEL / 2 / 20), 10 ** ((LEAST_LEVEL / 2 - 0.01) / 20)
    levels = stream_levels(np.array([[[just, below, 0], [1e9, 1, 0], [0, 0, 0]]], complex), 1.0)
    np.testing.assert_array_equal(levels, [[LEAST_LEVEL, 0, 0], [255, 0, 0], [0, 0, 0]])
