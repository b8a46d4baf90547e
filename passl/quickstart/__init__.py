"""`make quickstart`: a small image tree from what the dependencies ship, a SwAV run on it, and what the run learnt."""
