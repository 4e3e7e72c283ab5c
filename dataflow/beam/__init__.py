"""Beam jobs, the engines that run them, and what workers say of them."""
