"""Side by side with peers, one command each; figures that were kept are in RESULTS.md."""
