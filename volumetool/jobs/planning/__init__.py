"""Planning: from a job to a plan, reading no more than metadata and a sample."""
