"""Text to plain tables: where specs come from, their grammar and its limits."""
