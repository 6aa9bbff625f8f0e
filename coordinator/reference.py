"""What a central controller that knows every estimate would do: references, never reachable from an AP."""

from __future__ import annotations

from apnode.messages import ComplexArray, FloatArray
from apnode.precoding import normalised_blocks, rzf


def centralised_rzf(h_hat: ComplexArray, rho: FloatArray, alpha: float) -> ComplexArray:
    """All APs as one RZF cluster: seed paper eqs. (16)-(17) over the whole network.

    Args:
        h_hat: (B, M, K, L) estimates of all APs [sqrt power gain].
        rho: (M, K) power of AP m for UE k, 0 where it does not serve it [W].
        alpha: regularisation in units of mean diag(H^H H).

    Returns:
        (B, M, K, L) precoders, each AP's block scaled to its power [sqrt W].
    """
    blocks, num_aps, num_ues, antennas = h_hat.shape
    stacked = h_hat.swapaxes(2, 3).reshape(blocks, num_aps * antennas, num_ues)
    w = rzf(stacked, alpha).reshape(blocks, num_aps, antennas, num_ues)
    return normalised_blocks(w, rho[:, None, :]).swapaxes(2, 3)
