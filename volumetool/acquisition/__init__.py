"""The watch: sections that arrive while a microscope runs are enhanced as they land."""
