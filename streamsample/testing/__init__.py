"""Timelines of events played to the real task of a job, in memory: `streamsample test`, and the project's own tests.

player    one task, or all of a job, played to by hand
values    a timeline's events as the bytes that the job reads; its records as values again
compare   what was expected beside what came
suite     a file of tests, run
"""
