"""Recommendation: users who click on items or don't, one file an environment, and what they share."""
