"""Background processes, one file each: relay, expiry, recovery, publisher, auditor."""
