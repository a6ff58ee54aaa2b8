"""Driving after HighwayEnv 1.12.1: lanes, vehicles and their drivers, and the environments of them."""
