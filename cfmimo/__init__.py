"""An emulation of autonomous access points in cell-free massive MIMO."""
