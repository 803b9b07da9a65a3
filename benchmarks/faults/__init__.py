"""What a run loses when devices fail: each fault injected, and what came of it."""
