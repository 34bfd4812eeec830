"""Who may ask, and how often: the institution's login, and limits."""
