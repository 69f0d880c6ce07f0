"""Looking for better settings than the defaults: what to try next, and what was learned so far."""
