"""`python -m moonrec.cli`, which is what `torchrun -m moonrec.cli train-ctr ...` starts on every rank."""

from moonrec.cli import main

main()
