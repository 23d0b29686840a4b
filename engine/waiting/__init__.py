"""The waiting room: places, the draw, admission, passes. In Redis and HTTP its word is "queue"."""
