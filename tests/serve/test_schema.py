"""The API against its own OpenAPI schema, by schemathesis."""

from __future__ import annotations
