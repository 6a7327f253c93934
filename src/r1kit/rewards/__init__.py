"""Rewards by rule (R1 section 2.2): accuracy and format, and the count of reflection words."""
