"""The web platform of a lab: accounts, volumes that they may read, and jobs that run as processes of their own."""
