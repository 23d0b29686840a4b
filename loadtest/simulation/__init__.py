"""`rush simulate`: the waiting room under a clock of its own, with a crowd that is made up."""
