"""An interpreter of pickles of data: it builds plain values and calls nothing that a file names."""
