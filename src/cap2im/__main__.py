"""`python -m cap2im`, which is also what `accelerate launch -m cap2im` runs."""

from cap2im.cli import main

main()
