"""Side-by-side measurements: kernels against the machine, and the whole against its peers."""
