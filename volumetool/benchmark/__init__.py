"""How fast this machine is, and what share of that a job reaches."""
