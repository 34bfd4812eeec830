"""Jobs: what was asked for, what was decided, what was done."""
