"""Slurm as the place where programs run: its commands, what it says of all jobs, and the runs of single ones.

Slurm's ids are given out again when it loses its state, its answers fail, and it forgets what has ended. So a
job is known by its name, which is used once; and whoever makes the record of a submission first has it: the
script on the node, which then runs the program, or the server, and the script will not run it any more.
"""

from .scheduler import SlurmScheduler

__all__ = ["SlurmScheduler"]
