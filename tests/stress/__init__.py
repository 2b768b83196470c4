"""``make stress``: kills, damaged files and hostile places, far more of them than the tests have.

Everything is drawn from a seed. ``python -m stress --quick`` takes seconds, and is part of the tests.
"""
