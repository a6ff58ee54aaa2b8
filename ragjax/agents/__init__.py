"""Agents: environments made of trained parts, one folder each."""
