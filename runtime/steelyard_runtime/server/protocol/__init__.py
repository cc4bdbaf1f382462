"""Requests and responses as pydantic models: the source of validation and of `/openapi.json`."""
