"""Downlink precoders, from the estimates an AP has: alone (MRT, RZF, MMSE) and jointly with its partners."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import Association, ChannelBlock, ClusterBlock, ComplexArray, FloatArray
from apnode.radio.csi import error_variance
from apnode.radio.power import AveragePower, power_split, scaled

Block = ChannelBlock | ClusterBlock  # what an AP told of its channels
_LEAST_LOAD = 1e-12  # of a matrix's trace: with so much on its diagonal it can be inverted


def mrt(h_hat: ComplexArray) -> ComplexArray:
    """Maximum ratio transmission, seed paper eq. (18): beam along the estimate.

    Args:
        h_hat: (..., L, K) estimates [sqrt power gain].

    Returns:
        (..., L, K) precoders, not normalised.
    """
    return h_hat


def rzf(h_hat: ComplexArray, alpha: float) -> ComplexArray:
    """Joint regularised zero-forcing, W = H (H^H H + alpha I)^-1: seed paper eq. (16), shaped so that it exists.

    Args:
        h_hat: (..., C L, K) estimates of the cluster's C APs, stacked in AP order [sqrt power gain].
        alpha: regularisation, > 0, in units of the mean of diag(H^H H).

    Returns:
        (..., C L, K) column k is UE k's precoder, not normalised.

    Raises:
        ValueError: if alpha is not positive.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, not {alpha}")
    hermitian = h_hat.conj().swapaxes(-1, -2)
    gram = hermitian @ h_hat  # (..., K, K)
    num_ues = gram.shape[-1]
    load = alpha * np.trace(gram, axis1=-2, axis2=-1).real / max(num_ues, 1)
    load = np.where(load > 0, load, 1)  # no channel at all: no precoder, instead of no solution
    loaded = gram + load[..., None, None] * np.eye(num_ues)
    return np.asarray(np.linalg.solve(loaded, hermitian).conj().swapaxes(-1, -2), complex)


def mmse(h_hat: ComplexArray, wanted: ComplexArray, covariance: ComplexArray) -> ComplexArray:
    """MMSE precoders, w_k ~ (sum_i h_hat_i h_hat_i^H + R)^-1 h_hat_k.

    The dual of the uplink's MMSE combiner ("Foundations of user-centric cell-free massive MIMO", section 6.3); R
    holds what no estimate tells: estimation errors, UEs left out, and noise over transmit power.

    Args:
        h_hat: (..., N, I) estimates of I UEs at N antennas [sqrt power gain].
        wanted: (..., N, n) those of the UEs to precode for [sqrt power gain].
        covariance: (..., N, N) R, positive definite [power gain].

    Returns:
        (..., N, n) not normalised.
    """
    heard = h_hat @ h_hat.conj().swapaxes(-1, -2) + covariance
    try:
        return np.asarray(np.linalg.solve(heard, wanted), complex)
    except np.linalg.LinAlgError:  # channels so strong that R is lost in rounding: a peer claims them
        load = _LEAST_LOAD * np.trace(heard, axis1=-2, axis2=-1).real
        return np.asarray(np.linalg.solve(heard + load[..., None, None] * np.eye(heard.shape[-1]), wanted), complex)


def positive(covariance: ComplexArray, floor: float) -> ComplexArray:
    """The nearest Hermitian matrix with no eigenvalue below `floor`: rounding, or a peer, may have spoilt one.

    Args:
        covariance: (..., L, L)
        floor: > 0.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.conj().swapaxes(-1, -2)) / 2)
    return np.asarray((vectors * np.maximum(values, floor)[..., None, :]) @ vectors.conj().swapaxes(-1, -2))


def stack_cluster(
    own: tuple[Sequence[int], ComplexArray],
    own_ues: Sequence[int],
    blocks: Sequence[tuple[Sequence[int], ComplexArray]],
) -> tuple[ComplexArray, list[int]]:
    """The channel matrix H of a cluster, as its first AP knows it.

    What is out of reach, or a partner did not tell (its channels to a third AP's UEs), counts as 0.

    Args:
        own: the R UEs in reach, and (B, L, R) own estimates [sqrt power gain].
        own_ues: whose columns to take, beside those that partners tell of.
        blocks: of each partner, its UEs and its (B, L, len(ues)) estimates.

    Returns:
        (B, C L, K_C) H, own rows first, and the K_C UEs of its columns.
    """
    ues = sorted({*own_ues, *(ue for block_ues, _ in blocks for ue in block_ues)})
    column = {ue: index for index, ue in enumerate(ues)}
    rows = []
    for block_ues, h_hat in [own, *blocks]:
        row = np.zeros((*h_hat.shape[:2], len(ues)), complex)
        stacked = [index for index, ue in enumerate(block_ues) if ue in column]
        row[..., [column[block_ues[index]] for index in stacked]] = h_hat[..., stacked]
        rows.append(row)
    return np.concatenate(rows, axis=1), ues


def ues_that_matter(config: Config, ues: Sequence[int], reach: Sequence[int], beta: FloatArray) -> tuple[int, ...]:
    """UEs whose channels an AP wants its partners to tell: its own, and with `selective` those it hears best.

    Args:
        config: gives the precoding.
        ues: whom the AP serves.
        reach: the R UEs in its reach.
        beta: (R,) its large-scale fading coefficients of these [power gain].
    """
    heard = config.precoding.told_ues if config.precoding.joint == "selective" else 0
    strongest = np.argsort(-beta, kind="stable")[:heard]
    return tuple(sorted({*ues, *(reach[index] for index in strongest)}))


class Precoder:
    """What one AP does with its power over one UE layout, as the config's section `precoding` says."""

    def __init__(self, ap: int, config: Config, association: Association) -> None:
        radio, beta = config.radio, association.beta
        self._ap, self._ues, self._reach = ap, association.ues, association.reach
        self._column = {ue: column for column, ue in enumerate(self._reach)}  # of estimates
        self._settings, self._antennas = config.precoding, radio.antennas
        self._own = association.columns(self._ues)
        self._rho = dict(zip(self._ues, power_split(beta[self._own], radio).tolist(), strict=True))  # [W]
        noise = radio.noise_power_w
        errors = error_variance(beta, association.pilots, radio.pilot_power_w, radio.pilot_length, noise)
        self._noise = noise / radio.ap_power_w
        self._unknown = float(errors.sum()) + self._noise  # per antenna: what no estimate tells
        power = association.neighbour_beta.sum(axis=1, dtype=float).tolist() or [0.0] * len(association.neighbours)
        of_aps = zip((ap, *association.neighbours), (float(beta.sum()), *power), strict=True)
        self._heard = {of: total + self._noise for of, total in of_aps}  # per antenna, by AP: all that it hears
        self._wrongness: dict[int, float] | None = None  # by AP; not told yet
        self._own_untold = np.asarray(self._unknown * np.eye(self._antennas), complex)
        self.average = AveragePower()
        self.matters = ues_that_matter(config, self._ues, self._reach, beta)

    @property
    def _selects(self) -> bool:
        return self._settings.joint == "selective"

    def believe(self, wrongness: Mapping[int, float]) -> None:
        """Precode from now on as if so large a part of the power of APs' channels were another than what they estimate.

        The estimates of an AP whose part is b are then worth 1 - b, and b of all that it hears is not told by them: the
        loading grows with it. That minimises the mean square error if what the estimates miss is independent of them.
        """
        if self._wrongness is not None and wrongness != self._wrongness:
            self.average = AveragePower()  # what is known is of other precoders
        self._wrongness = dict(wrongness)

    def _doubted(self, ap: int, h_hat: ComplexArray, untold: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        """Estimates (..., L, R) of an AP, and the covariance (..., L, L) of what they do not tell, as believed."""
        wrong = (self._wrongness or {}).get(ap, 0.0)
        if not wrong or ap not in self._heard:
            return h_hat, untold
        missed = wrong * self._heard[ap] * np.eye(self._antennas)
        return np.sqrt(1 - wrong) * h_hat, (1 - wrong) * untold + missed

    def alone(self, h_hat: ComplexArray) -> ComplexArray:
        """(B, L, |K_m|) precoders without partners [sqrt W].

        Args:
            h_hat: (B, L, R) own estimates [sqrt power gain].
        """
        own = h_hat[..., self._own]
        match self._settings.alone:
            case "mrt":
                w = mrt(own)
            case "rzf":
                w = rzf(own, self._settings.rzf_alpha)
            case "mmse":
                known, untold = self._doubted(self._ap, h_hat, self._own_untold)
                w = mmse(known, known[..., self._own], untold)
        return self._at_power(w, self._ues, {})

    def joint(
        self,
        h_hat: ComplexArray,
        alone: ComplexArray,
        partners: Mapping[int, Block],
        groups: Mapping[int, Collection[int]] | None = None,
        own_age: int = 0,
    ) -> ComplexArray:
        """(B, L, |K_m|) precoders together with partners [sqrt W].

        A group precodes each block with the newest estimates that all in it have. If there are none for one of the
        blocks, its APs precode alone.

        Args:
            h_hat: (H + B, L, R) own estimates in the B blocks and in H before, selective only [sqrt power gain].
            alone: what `alone` gave in this slot; stands where there is nothing to do together.
            partners: their channel blocks by AP, in AP order.
            groups: selective: UE -> the partners to precode with for it; without this all who serve it.
            own_age: blocks by which the partners get own estimates late.
        """
        if not partners or not self._ues:
            return alone
        if not self._selects:
            stacked, ues = stack_cluster((self._reach, h_hat), self._ues, [(b.ues, b.h_hat) for b in partners.values()])
            w = rzf(stacked, self._settings.rzf_alpha)[..., [ues.index(ue) for ue in self._ues]]
            return self._at_power(w, self._ues, partners)
        w, untold = alone.copy(), self._mended(partners)
        for group, ues in self._common(partners, groups).items():
            members = {ap: partners[ap] for ap in group}
            late = max(own_age, *(block.age for block in members.values()))
            known = min(len(h_hat), *(len(block.h_hat) + block.age for block in members.values()))
            if known - late >= len(w):
                own = [self._ues.index(ue) for ue in ues]
                w[..., own] = self._selective(h_hat, ues, members, untold, len(w), late)
        return w

    def _common(
        self, partners: Mapping[int, Block], groups: Mapping[int, Collection[int]] | None
    ) -> dict[tuple[int, ...], list[int]]:
        """Own UEs by the partners that serve them as well, as far as they are in the UE's group."""
        common: dict[tuple[int, ...], list[int]] = {}
        for ue in self._ues:
            allowed = partners.keys() if groups is None else groups.get(ue, ())
            group = tuple(ap for ap, block in partners.items() if ap in allowed and spent_on(block, ue) > 0)
            if group:
                common.setdefault(group, []).append(ue)
        return common

    def _mended(self, partners: Mapping[int, Block]) -> dict[int, ComplexArray]:
        """(S, L, L) covariance, by AP, of what partners' estimates do not tell, positive whatever they say."""
        told = [block.untold for block in partners.values()]
        mended = positive(np.concatenate(told), self._noise)  # of all at once: a call takes longer than a matrix
        ends = np.cumsum([len(of_one) for of_one in told])
        return {ap: mended[end - len(of_one) : end] for ap, of_one, end in zip(partners, told, ends, strict=True)}

    def _selective(
        self,
        h_hat: ComplexArray,
        ues: Sequence[int],
        group: Mapping[int, Block],
        untold: Mapping[int, ComplexArray],
        count: int,
        late: int,
    ) -> ComplexArray:
        """(B, L, len(ues)) joint MMSE precoders for UEs that all of a group serve, in `count` blocks [sqrt W].

        They are made from estimates that are `late` blocks old; `untold` is as `_mended` gave it.
        """
        own, rest = self._doubted(self._ap, _of_age(h_hat, late, count), self._own_untold)
        blocks, covariances = list[tuple[Sequence[int], ComplexArray]](), [rest]
        for ap, block in group.items():
            told, rest = (_of_age(of_all, late - block.age, count) for of_all in (block.h_hat, untold[ap]))
            h_hat, rest = self._doubted(ap, told, rest)
            blocks.append((block.ues, h_hat))
            covariances.append(rest)
        stacked, known = stack_cluster((self._reach, own), self._reach, blocks)
        size, antennas = stacked.shape[1], self._antennas
        covariance = np.zeros((count, size, size), complex)
        for index, rest in enumerate(covariances):
            rows = slice(index * antennas, (index + 1) * antennas)
            covariance[:, rows, rows] = rest
        wanted = stacked[..., [known.index(ue) for ue in ues]]
        return self._at_power(mmse(stacked, wanted, covariance), ues, group)

    def _at_power(self, w: ComplexArray, ues: Sequence[int], group: Mapping[int, Block]) -> ComplexArray:
        """(B, L, n) own rows of the (B, C L, n) precoders of oneself and a group, by the power rule [sqrt W]."""
        own = w[:, : self._antennas]
        if self._settings.power == "paper":
            power, members = _power(own, self._antennas), []
        else:
            power, members = _power(w, self._antennas), list(group.values())
        rho = np.array([[self._rho[ue] for ue in ues], *([spent_on(b, ue) for ue in ues] for b in members)])
        if self._settings.power == "average":
            power = self.average.add(ues, tuple(group), power)
        return scaled(own, rho, power)

    def block(self, slot: int, asked: Iterable[int], h_hat: ComplexArray) -> ChannelBlock:
        """What a partner needs for joint precoding, as a message.

        Args:
            slot: it is for.
            asked: UEs that matter to the partner; of those out of reach there is nothing to tell.
            h_hat: (S, L, R) own estimates, up to the last block of the slot [sqrt power gain].
        """
        told = sorted({*self.matters, *(ue for ue in asked if ue in self._column)})
        columns = [self._column[ue] for ue in told]
        untold = np.zeros((0, self._antennas, self._antennas), complex)
        if self._selects:
            others = np.delete(h_hat, columns, axis=-1)
            heard = others @ others.conj().swapaxes(-1, -2)
            untold = np.asarray(heard + self._own_untold)
        rho = np.array([self._rho.get(ue, 0.0) for ue in told])
        return ChannelBlock(slot, self._ap, tuple(told), h_hat[..., columns], rho, untold)


def _of_age(of_blocks: ComplexArray, late: int, count: int) -> ComplexArray:
    """Of what was measured in blocks in turn, that of `count` ones, of which the newest is `late` before the end."""
    end = len(of_blocks) - late
    return of_blocks[end - count : end]


def spent_on(block: Block, ue: int) -> float:
    """What a partner spends on a UE, as far as it told [W]."""
    return float(block.rho[block.ues.index(ue)]) if ue in block.ues else 0.0


def _power(w: ComplexArray, antennas: int) -> FloatArray:
    """(B, C, n) squared norms of every AP's rows of (B, C L, n) precoders."""
    blocks, rows, num_ues = w.shape
    norms: FloatArray = (np.abs(w.reshape(blocks, rows // antennas, antennas, num_ues)) ** 2).sum(axis=2)
    return norms
