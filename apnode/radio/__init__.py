"""What an AP computes: channel estimates, precoders, powers, and whom it believes."""
