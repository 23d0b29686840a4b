"""The load test: Locust users and load shapes, and the audit that turns a run into a verdict."""
