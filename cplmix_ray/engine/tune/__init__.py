"""Ray Tune: trials that hold the devices of their arms, one shelf of data for all of them, and what they report."""
