"""Pure decisions: (a job, a command, the time) to events or a Rejection. No IO, no clock, no randomness."""
