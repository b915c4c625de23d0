"""The tests mirror the house: one folder a part."""
