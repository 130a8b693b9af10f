"""The database's schema through time, as Alembic revisions; ``services.registry.schema`` runs them.

A new one is begun from a checkout with ``alembic revision -m "what it does"``; a test
compares where the revisions lead with ``services.registry.models``.
"""
