"""How volumes are written, one file a format: metadata, axes, names; `volumetool.storage.create` writes them by one path."""
