"""The domain of Ticket Rush and its stores: no HTTP, no process management."""
