"""Sites: where a job runs, a machine or a supercomputer centre; what is found there, and what a job needs there."""
