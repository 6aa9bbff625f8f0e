"""What UEs report of interference: laws of a ranking that each UE does once for all APs that serve it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apnode.protocol.messages import NOBODY, FloatArray, IntArray
from channel_server.ue_reports import partner_gains, strongest_interferers

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
