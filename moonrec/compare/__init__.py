"""One page about one run, or several side by side: what `moonrec report` makes of run folders."""
