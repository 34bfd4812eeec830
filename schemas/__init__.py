"""JSON Schemas, generated from the models by ``python -m volumetool.schemas``; a test keeps them equal."""
