"""HTML reports: one self-contained page of runs, of a sweep or of an experiment."""
