"""Adaptive retrieval: a policy that decides whether to retrieve, again, or to answer."""
