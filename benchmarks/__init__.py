"""What things cost, as CPU time for a unit of work, beside what they are compared to."""
