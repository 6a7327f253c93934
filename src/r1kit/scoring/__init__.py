"""From graded samples to the numbers of a table, with their standard errors."""
