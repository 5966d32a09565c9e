import sys

from tokcodec.cli import main

if __name__ == "__main__":
    sys.exit(main())
