"""All that prints: the live table, reports, lists, JSON."""
