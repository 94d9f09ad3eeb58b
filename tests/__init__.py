"""Tests: they mirror the rooms, and go through the doors that users use."""
