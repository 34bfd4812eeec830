"""Records in the job directory."""
