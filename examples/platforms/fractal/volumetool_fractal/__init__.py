"""volumetool as a task of Fractal."""
