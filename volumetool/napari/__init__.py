"""Plugin of napari: it opens volumes as lazy layers and previews what a job will write. Nothing else imports this room."""
