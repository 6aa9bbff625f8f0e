"""Whole runs of clusters that reach beyond an AP's partners: joint precoding, percolation, and what a person reads."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from apnode.clusters.graph import adjacency, layers
from apnode.config import Config
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import ApReport, ComplexArray, Transmission
from apnode.protocol.node import Send
from apnode.protocol.wire import decode
from apnode.radio.power import scaled
from apnode.radio.precoding import mmse, rzf
from cfmimo.cli.main import run_cfmimo
from cfmimo.experiments.snapshot import snapshot
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from coordinator import tables
from coordinator.summary import cluster_notes, summarise

ONE_SLOT = ("run.episodes=1", "run.slots_per_episode=1")
DENSE = (*ONE_SLOT, "cooperation.policy=always", "cooperation.neighbour_sets=symmetric")


@dataclass
class Run:
    """One slot, who was in what cluster, and what everybody radiated."""

    config: Config
    reports: dict[int, ApReport] = field(default_factory=dict)
    radiated: dict[int, Transmission] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network = LocalNetwork(self.config)
        self.network.run(self.watch)
        self.record = self.network.coordinator.record

    def watch(self, send: Send) -> None:
        message = decode(send.frame, largest_frame(self.config))
        if isinstance(message, ApReport):
            self.reports[message.ap] = message
        if isinstance(message, Transmission):
            self.radiated[message.ap] = message


# --- percolation -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def percolated() -> Run:
    return Run(load("paper", (*DENSE, "cooperation.cluster=components", "cooperation.max_cluster_aps=20")))


def test_when_everybody_asks_everybody_links_percolate_to_one_giant_cluster(percolated: Run) -> None:
    size = int(summarise(percolated.record)["largest_cluster"])
    assert size > 60
    assert sorted({report.cluster_size for report in percolated.reports.values()}) == [1, size]
    (note,) = cluster_notes(percolated.record)
    assert note.startswith(f"components: a cluster of {size} APs in slot 0 exceeds cooperation.max_cluster_aps = 20; ")


def test_whose_cluster_is_refused_precodes_alone(percolated: Run) -> None:
    assert summarise(percolated.record)["clusters_refused"] == 1
    for sent in percolated.radiated.values():
        assert sent.partners == ()
        np.testing.assert_array_equal(sent.w, sent.w_alone)
    np.testing.assert_array_equal(percolated.record.sinr, percolated.record.sinr_alone)


def test_clusters_of_fewer_links_are_whole_and_gain() -> None:
    chance = ("cooperation.policy=random", "cooperation.request_rate=0.35")
    limit = ("cooperation.cluster=components", "cooperation.max_cluster_aps=4")
    run = Run(load("paper", (*DENSE, *chance, *limit)))
    sizes = [report.cluster_size for report in run.reports.values()]
    assert max(sizes) == 4
    for ap, sent in run.radiated.items():
        assert len(sent.partners) == run.reports[ap].cluster_size - 1
        for partner in sent.partners:
            cluster = {ap, *sent.partners}
            assert {partner, *run.radiated[partner].partners} == cluster
    table = tables.slots(run.record)
    assert table["sum_rate_bps_hz"][0] > table["sum_rate_alone_bps_hz"][0]
    assert 0 < table["formed"][0] < table["requests"][0] / 2
    assert table["disagreements"][0] == 0


def test_a_person_reads_the_size_of_a_refused_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = (*DENSE, "cooperation.cluster=components")
    assert run_cfmimo(["run", "demo", "--runtime", "local", "--quiet", "--out", "r", "--set", *settings]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "components: a cluster of 19 APs in slot 0 exceeds cooperation.max_cluster_aps = 5" in shown
    assert "Links percolate: use ego clusters, or fewer links." in shown
    assert "a cluster of 19 APs" in (tmp_path / "r/report.html").read_text()


# --- what a cluster radiates -------------------------------------------------------------------------------


def test_a_cluster_radiates_the_joint_precoder_of_all_its_channels() -> None:
    """Every member has made its own rows of the same RZF over all members' antennas and UEs."""
    config = load("demo", (*DENSE, "cooperation.cluster=components", "cooperation.max_cluster_aps=19"))
    taken = snapshot(config, 0)
    h_hat: ComplexArray = taken["h_hat"].swapaxes(2, 3)  # (B, M, L, K)
    clusters = {frozenset({ap, *np.flatnonzero(row)}) for ap, row in enumerate(taken["links"])}
    assert max(map(len, clusters)) == 19
    for cluster in clusters - {cluster for cluster in clusters if len(cluster) == 1}:
        members = sorted(cluster)
        ues = np.flatnonzero(taken["serving"][members].any(axis=0))
        stacked = np.concatenate([h_hat[:, ap][..., ues] for ap in members], axis=1)
        joint = rzf(stacked, config.precoding.rzf_alpha)
        for position, ap in enumerate(members):
            rows = joint[:, 4 * position : 4 * position + 4]
            expected = scaled(rows, taken["rho"][ap, ues][None], (np.abs(rows) ** 2).sum(axis=1)[:, None])
            np.testing.assert_allclose(taken["w"][:, ap, ues].swapaxes(1, 2), expected, atol=2e-5)


def test_aps_that_links_connect_radiate_one_mmse_precoder_for_a_ue_they_all_serve() -> None:
    """Over several links too; up to one real factor in each block, as all tell of all UEs here."""
    chance = ("cooperation.policy=random", "cooperation.request_rate=0.6", "cooperation.neighbour_sets=common-ue")
    selective = ("cooperation.cluster=serving", "precoding.joint=selective", "precoding.power=peak")
    config = load("demo", (*ONE_SLOT, *chance, *selective))
    taken = snapshot(config, 0)
    agreed = np.argwhere(taken["requests"] & taken["requests"].T).tolist()
    unknown = taken["error_variance"].sum(axis=1) + taken["noise_power"] / config.radio.ap_power_w
    reached = []
    for ue, serving in enumerate(taken["serving"].T):
        graph = adjacency(np.flatnonzero(serving).tolist(), [(ap, other) for ap, other in agreed])
        for members in {tuple(sorted(set().union(*layers(ap, graph)))) for ap in graph}:
            if len(members) > 1:
                h_hat = np.concatenate([taken["h_hat"][:, ap].swapaxes(1, 2) for ap in members], axis=1)
                covariance = np.diag(np.repeat(unknown[list(members)], 4)).astype(complex)
                ideal = mmse(h_hat, h_hat[..., [ue]], covariance)[..., 0]
                factor = np.concatenate([taken["w"][:, ap, ue] for ap in members], axis=1) / ideal
                np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1].real, factor.shape), rtol=2e-3)
                reached.append(max(len(layers(ap, graph)) - 1 for ap in members))
    assert max(reached) >= 2
