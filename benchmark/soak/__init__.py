"""Campaigns: thousands of small runs that are killed, stopped, damaged and upset, and must come to the same end."""
