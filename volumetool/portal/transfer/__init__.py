"""What comes in and what goes out: uploads, a look at what was sent, and results as zip files."""
