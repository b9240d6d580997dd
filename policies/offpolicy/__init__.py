"""What another policy would have earned, from the record of the one that ran."""
