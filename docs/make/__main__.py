"""Make the pages of docs/: ``python docs/make [PAGE ...] [--out docs] [--check]``."""

from pages import main

if __name__ == "__main__":
    main()
