"""The pages: what each form does, and what each page shows."""
