"""The resource: pydantic models that are the only source of the CRD."""
