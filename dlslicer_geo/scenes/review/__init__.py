"""Scenes in, what somebody should look at out: duplicates, overlaps, and a page with a card for each."""
