"""Data sets: rows of files, folders and the Hugging Face hub, their many layouts, and what is left out of them."""
