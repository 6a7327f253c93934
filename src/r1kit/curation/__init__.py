"""From samples to data: choosing, rewriting and joining what models are trained on next (R1 V2 B.3)."""
