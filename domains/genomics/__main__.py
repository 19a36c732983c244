"""Where the commands that read DNA stood: says how they are spelled now, for one release."""

import shlex
import sys

if __name__ == "__main__":
    old = dict(zip(("", "--ckpt", "--input", "--output"), sys.argv[1:5], strict=False))
    verb = old.pop("", "VERB")
    words = [verb, *(word for pair in old.items() for word in pair), *sys.argv[5:]]
    sys.exit(f"error: `python -m domains.genomics` has moved; type: python -m app {shlex.join(words)}")
