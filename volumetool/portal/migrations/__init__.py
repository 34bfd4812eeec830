"""How the portal's tables came to be what they are, step by step; Alembic goes them up and down."""
