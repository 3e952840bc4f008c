"""What each method of training reads of a row, and what it changes in the trainer."""
