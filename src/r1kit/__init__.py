"""r1kit: DeepSeek-R1's training system, from a base model to R1-Zero on a laptop."""

__version__ = "0.1.0"
