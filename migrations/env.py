"""Alembic's entry: run the migrations on the connection that `app.schema` hands over, in its transaction."""

from alembic import context

from app.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
