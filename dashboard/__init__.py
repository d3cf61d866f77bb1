"""The web pages over the service: live progress, curves, and what the trials say."""
