"""Regions of frames: proposals, boxes that become regions, tracks, tubes and their crops. Pixels and boxes alone."""
