"""Alembic runs this module: it hands on the connection that the portal has open."""

from alembic import context

from volumetool.portal.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
