"""Trying models on a volume before a job: crops that rules choose, what each model makes of them, and what the job costs."""
