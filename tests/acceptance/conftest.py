"""`make_job`: a job on the session's broker."""

from tests.acceptance.cluster import make_job

__all__ = ["make_job"]
