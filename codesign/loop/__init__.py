"""The closed loop: options of each block, their measured cost and error, and what a candidate becomes."""
