"""The portal as a facility runs it: looked at, measured, backed up, told of by mail, and with its jobs at a SLURM site."""
