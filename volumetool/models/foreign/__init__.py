"""Networks of other software: each kind of file behind one function, loaded so that nothing in it runs but arithmetic."""
